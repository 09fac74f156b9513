"""Fused kernels (C++ for CPUs), named like the ops they serve; reached through `memnets.ops` alone, built at first use."""
