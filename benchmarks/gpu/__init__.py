"""All that needs a GPU, in three calls: `python -m benchmarks.gpu --call a|b|c --out DIR`."""
