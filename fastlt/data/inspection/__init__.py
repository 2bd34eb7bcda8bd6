"""What to know about a data set before training: its tail, its faults, its duplicates."""
