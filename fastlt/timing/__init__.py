"""`fastlt benchmark`: what a training step and a loader reach on this machine, and which settings get there."""
