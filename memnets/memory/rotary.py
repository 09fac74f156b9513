"""Positions as rotations (RoPE, Su et al. 2021, arXiv:2104.09864), in one half of every head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

BASE = 10_000.0


class Rotary(nn.Module):
    """Rotates the first half of a head's components by position; the second half stays free of position.

    Pair j of the first half turns by position / 10000^(j / pairs). A product of two rotated vectors depends on the
    difference of their positions only. In the free half a query can be compared with what has no position: a learned
    slot lives there alone (`place_free`), so one softmax serves it and the window.

    Raises:
        ValueError: head_size is no multiple of 4: two halves of pairs.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        if head_size % 4:
            raise ValueError(f"d_model / num_heads must be a multiple of 4 (rotary positions), not {head_size}")
        self.rotated_size = head_size // 2

    def forward(
        self, vectors: Float[Tensor, "batch heads time word"], start: int = 0
    ) -> Float[Tensor, "batch heads time word"]:
        """Vectors rotated as positions start, start + 1, ..."""
        turned, free = vectors.split([self.rotated_size, vectors.shape[-1] - self.rotated_size], dim=-1)
        first, second = turned.chunk(2, dim=-1)
        # In the vectors' own precision: a table rounded to float32 would make a float64 model depend on `start`.
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        pairs = torch.arange(first.shape[-1], device=vectors.device, dtype=dtype) / first.shape[-1]
        steps = torch.arange(start, start + vectors.shape[2], device=vectors.device, dtype=dtype)
        angles = steps[:, None] * BASE**-pairs
        cos, sin = angles.cos(), angles.sin()
        rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return torch.cat([rotated.to(vectors.dtype), free], dim=-1)


def place_free(keys: Float[Tensor, "*rows word"]) -> Float[Tensor, "*rows word"]:
    """Keys with the rotated half set to zero: the same to queries at every position."""
    half = keys.shape[-1] // 2
    return torch.cat([torch.zeros_like(keys[..., :half]), keys[..., half:]], dim=-1)
