"""Fused operations: each a PyTorch reference, a Triton kernel, a fake and autograd; the only importer of kernels/."""
