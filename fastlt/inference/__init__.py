"""A finished network in use: predictions for images without labels, and files for other programs."""
