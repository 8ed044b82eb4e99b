"""Verification: what an output claims, recomputed as far as it can be; from the least to the most that it takes."""
