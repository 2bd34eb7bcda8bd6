"""The published benchmarks: what they are, where their files lie, and how to open them."""
