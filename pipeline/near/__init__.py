"""Near-duplicates inside the set (`--dedup near`)."""
