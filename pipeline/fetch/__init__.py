"""Fetch: rounds of work units, and the arrived images that each query keeps."""
