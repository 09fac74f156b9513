"""Content addressing: where a key is found in a memory (NTM paper, equations 5 and 6; DNC, equation for C)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memnets.ops import backend
from memnets.ops.erase_add import read

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

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    given = (memory, key, strength, mask)
    if backend.choose("content_address", {"triton": lambda: backend.triton_obstacle(*given)}) == "triton":
        from memnets.kernels.triton import content_address as kernel

        return kernel.content_address(*given, similarity)
    return content_address_reference(*given, similarity)


def content_read(
    memory: Float[Tensor, "batch slots word"],
    key: Float[Tensor, "batch heads word"],
    strength: Float[Tensor, "batch heads"],
    mask: Bool[Tensor, "batch slots"] | None = None,
    similarity: Similarity = "cosine",
) -> tuple[Float[Tensor, "batch heads word"], Float[Tensor, "batch heads slots"]]:
    """What is read from the memory at the weights of `content_address`, and these: one pass over it in a kernel.

    r = Σ_i w(i) M(i) (equation 2); 0 if no slot is left.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    given = (memory, key, strength, mask)
    if backend.choose("content_read", {"triton": lambda: backend.triton_obstacle(*given)}) == "triton":
        from memnets.kernels.triton import content_address as kernel

        return kernel.content_read(*given, similarity)
    return content_read_reference(*given, similarity)


def content_address_reference(
    memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor | None, similarity: Similarity
) -> Tensor:
    """Content addressing in plain PyTorch."""
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


def content_read_reference(
    memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor | None, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """Both in turn, in plain PyTorch."""
    weights = content_address_reference(memory, key, strength, mask, similarity)
    return read(memory, weights), weights
