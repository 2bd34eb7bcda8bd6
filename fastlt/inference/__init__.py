"""A finished network at work: images without labels, and files for other programs."""
