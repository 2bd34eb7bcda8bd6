"""Stage 2: every method maps a linear head to another linear head."""
