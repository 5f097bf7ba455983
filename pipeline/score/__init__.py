"""Scores of a finished set: the command, its workers, the tables beside the shards, conditions on them."""
