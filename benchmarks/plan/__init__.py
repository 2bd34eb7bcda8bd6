"""Inductor's plan of a training step for an H200, from fake tensors: which kernels it launches, and what they move."""
