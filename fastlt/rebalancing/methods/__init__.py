"""The methods, one file each, and their registry: a function from a problem to a rebalanced head."""
