"""Weights on disk: our own checkpoints, and other people's in any format."""
