"""The C++ core (csrc/): sampling order, augmentation draws and image resampling."""
