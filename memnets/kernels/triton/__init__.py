"""Triton kernels for GPUs, one file per op, named like the ops they serve."""
