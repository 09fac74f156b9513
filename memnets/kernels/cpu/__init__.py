"""C++ kernels for CPUs, named like the ops they serve, each with what tells torch about it."""
