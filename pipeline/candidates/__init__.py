"""Candidates: read the sources, judge and match their captions; pages are fetched first."""
