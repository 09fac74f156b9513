"""Content addressing: where a key is found in a memory (NTM paper, equations 5 and 6; DNC, equation for C)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Similarity = Literal["cosine", "dot"]
EPSILON = 1e-8


def content_address(
    memory: Float[Tensor, "batch slots word"],
    key: Float[Tensor, "batch heads word"],
    strength: Float[Tensor, "batch heads"],
    mask: Bool[Tensor, "batch slots"] | None = None,
    similarity: Similarity = "cosine",
) -> Float[Tensor, "batch heads slots"]:
    """Softmax over slots of strength × similarity.

    w(i) = exp(strength · K(key, M(i))) / Σ_j exp(strength · K(key, M(j))), with
    K(u, v) = u·v / √((|u|² + 1e-8)(|v|² + 1e-8)) for `cosine`, u·v for `dot`.

    Slots outside `mask` get weight 0; if no slot is left, all weights are 0.
    """
    scores = torch.einsum("bhw,bnw->bhn", key, memory)
    if similarity == "cosine":
        key_norm = torch.rsqrt(key.square().sum(-1) + EPSILON)
        memory_norm = torch.rsqrt(memory.square().sum(-1) + EPSILON)
        scores = scores * key_norm[:, :, None] * memory_norm[:, None, :]
    scores = scores * strength[:, :, None]
    if mask is None:
        return torch.softmax(scores, dim=-1)
    keep = mask[:, None, :]
    return torch.softmax(scores.masked_fill(~keep, torch.finfo(scores.dtype).min), dim=-1) * keep
