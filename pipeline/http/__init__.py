"""Fetch politely and safely: which URLs may be fetched, by whom, how fast, and why a fetch failed."""
