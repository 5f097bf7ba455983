"""Finish: the shards, the rejected rows and the counts by query."""
