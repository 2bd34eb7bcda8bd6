"""The file formats of weights: safetensors, and what torch.save writes. Nothing in a file is trusted."""
