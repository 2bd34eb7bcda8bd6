"""All that needs a GPU: `python -m benchmarks.gpu --out DIR`."""
