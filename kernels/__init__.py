"""Triton kernels; installed as fastlt.kernels, and imported by fastlt.ops only."""

if __name__ != "fastlt.kernels":
    raise ImportError(f"this package is fastlt.kernels, not {__name__}: import fastlt.ops instead")
