"""Takedown: remove samples from every file of a run."""
