"""What all unit tests share."""

import torch

torch.set_num_threads(1)  # tensors here are so small that a second thread only waits for the first
