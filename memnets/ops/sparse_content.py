"""Content addressing of k slots, not all (sparse access memory: Rae et al. 2016, arXiv:1610.09027, section 3.1)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops.content_address import EPSILON


def sparse_content_address(
    memory: Float[Tensor, "batch slots word"],
    key: Float[Tensor, "batch heads word"],
    strength: Float[Tensor, "batch heads"],
    k: int,
) -> tuple[Float[Tensor, "batch heads k"], Int[Tensor, "batch heads k"]]:
    """Weights and indices of the k slots most similar to each key, most similar first, ties to the lower slot.

    w = softmax over these of strength · cos(key, M(i)), the cosine of `content_address`. The choice is exact and has no
    gradient.

    Raises:
        ValueError: k is not between 1 and the number of slots.
    """
    if not 1 <= k <= memory.shape[1]:
        raise ValueError(f"top-k needs 1 <= k <= slots, not k={k} with {memory.shape[1]} slots")
    with torch.no_grad():
        # Summed row by row, where a matrix product might round equal rows apart and so break ties by chance.
        exact = torch.promote_types(memory.dtype, torch.float32)
        every = _cosine(key.to(exact)[:, :, None], memory.to(exact)[:, None])
        indices = torch.sort(every, dim=-1, descending=True, stable=True).indices[..., :k]
    flat = rearrange(indices, "b h k -> b (h k) 1").expand(-1, -1, memory.shape[2])
    rows = rearrange(memory.gather(1, flat), "b (h k) w -> b h k w", k=k)
    return torch.softmax(strength[..., None] * _cosine(key[:, :, None], rows), dim=-1), indices


def _cosine(key: Tensor, rows: Tensor) -> Tensor:
    norms = [torch.rsqrt(vectors.square().sum(-1) + EPSILON) for vectors in (key, rows)]
    return (key * rows).sum(-1) * norms[0] * norms[1]
