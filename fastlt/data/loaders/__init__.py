"""One loader with four backends that see the same samples, windows and flips."""
