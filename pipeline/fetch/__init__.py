"""Fetch: rounds of work units, and what of all that arrived each query keeps."""
