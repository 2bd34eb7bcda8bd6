"""Data sets packed into plain tars with offsets: how to write and read them."""
