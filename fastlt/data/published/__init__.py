"""The published benchmarks: what they are, where their files are, and how to open them."""
