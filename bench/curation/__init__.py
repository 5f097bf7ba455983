"""Train on one pool chosen in different ways, and compare: `python -m bench.curation`."""
