"""Where the Triton kernels come from: the only import of fastlt.kernels, made on the first call that needs it."""

import importlib
import importlib.util
from types import ModuleType

HAS_TRITON = importlib.util.find_spec("triton") is not None


def kernels() -> ModuleType:
    """The launchers of fastlt.kernels; importing triton takes time, so `import fastlt.ops` does not."""
    return importlib.import_module("fastlt.kernels.launch_linear")


def norm_kernels() -> ModuleType:
    """The launchers of batch norm."""
    return importlib.import_module("fastlt.kernels.launch_batch_norm")


def image_kernels() -> ModuleType:
    """The launchers of the crops."""
    return importlib.import_module("fastlt.kernels.launch_crops")


def grouped_kernels() -> ModuleType:
    """The launchers of grouped convolutions."""
    return importlib.import_module("fastlt.kernels.launch_convolution")
