"""Fetch politely and safely: what may be fetched, by whom, how fast, and what went wrong."""
