"""Parts of decoding an image: which formats there are, and how deep greyscale becomes 8 bits."""
