"""Reading from and writing to a memory (NTM paper, equations 2 to 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def read(
    memory: Float[Tensor, "batch slots word"], weights: Float[Tensor, "batch heads slots"]
) -> Float[Tensor, "batch heads word"]:
    """r = Σ_i w(i) M(i) (equation 2)."""
    return torch.einsum("bhn,bnw->bhw", weights, memory)


def erase_add(
    memory: Float[Tensor, "batch slots word"],
    weights: Float[Tensor, "batch heads slots"],
    erase: Float[Tensor, "batch heads word"],
    add: Float[Tensor, "batch heads word"],
) -> Float[Tensor, "batch slots word"]:
    """M'(i) = M(i) · Π_h (1 - w_h(i) erase_h) + Σ_h w_h(i) add_h (equations 3 and 4): all erase, then all add."""
    keep = 1 - weights[:, :, :, None] * erase[:, :, None, :]
    return memory * keep.prod(dim=1) + torch.einsum("bhn,bhw->bnw", weights, add)
