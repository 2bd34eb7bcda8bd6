"""Backbones with torchvision's names and state-dict keys, and the linear head."""
