"""What all unit tests share."""

import pytest
import torch

torch.set_num_threads(1)  # tensors here are so small that a second thread only waits for the first


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `tests/errors.txt` be written anew."""
    parser.addoption("--write-errors", action="store_true", help="write tests/errors.txt from the source")
