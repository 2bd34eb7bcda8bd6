"""Stage 1: train a backbone and its linear head jointly, resumable to the bit."""
