"""The layouts of a data set on disk, one module each; `find` tries them in order."""
