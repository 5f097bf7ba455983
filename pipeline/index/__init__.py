"""The index of a dataset: where each sample lies in its tar, and a search over all that is known of it."""
