"""Evaluate checkpoints as CLIP's paper does (Radford et al. 2021, arXiv:2103.00020, sections 3 to 7)."""
