"""Generated data: the embedded glyphs_lt, sets of any shape, and stand-ins for the published benchmarks."""
