"""The commands: one module each, with its arguments as a dataclass and the function that runs it."""
