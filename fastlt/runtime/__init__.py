"""The machine and its processes: devices, memory, compiling, distributed training and the log."""
