"""The learned near-duplicate detector (Radford et al. 2021, arXiv 2103.00020, appendix C)."""
