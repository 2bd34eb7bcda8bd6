"""What there is to know of a data set before training: its tail, its faults, its duplicates."""
