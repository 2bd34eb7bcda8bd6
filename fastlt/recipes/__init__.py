"""One module per data set, each a function that returns its training configuration."""
