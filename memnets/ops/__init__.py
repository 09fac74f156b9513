"""One file per operation: a pure function with named axes, and its reference in plain PyTorch."""
