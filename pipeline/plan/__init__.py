"""Predict what a build costs before it starts: time, bytes, money, GPU-days."""
