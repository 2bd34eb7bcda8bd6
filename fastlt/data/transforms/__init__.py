"""What happens to the pixels of an image before the network sees it."""
