"""A data set packed into plain tars with offsets: writing and reading one."""
