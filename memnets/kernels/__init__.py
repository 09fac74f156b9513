"""Fused kernels (C++ for CPUs), named like the ops they serve; reached through `memnets.ops`, built at first use."""
