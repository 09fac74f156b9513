"""Sparse addressing: the k slots nearest to each query, exactly."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.ops import backend


def topk_address(
    query: Float[Tensor, "batch heads time word"],
    keys: Float[Tensor, "batch heads slots word"],
    visible: Bool[Tensor, "batch time slots"],
    k: int,
) -> tuple[Float[Tensor, "batch heads time k"], Int[Tensor, "batch heads time k"]]:
    """Dot-product scores and slots of the k best visible keys, best first, ties to the lower slot.

    Where fewer than k keys are visible the remaining scores are -inf and their slots arbitrary. The choice of slots
    has no gradient; the scores' gradients reach the query and the k chosen keys.

    Raises:
        ValueError: k is not between 1 and the number of slots.
        BackendError: the backend asked for by name can't serve the call.
    """
    slots = keys.shape[2]
    if not 1 <= k <= slots:
        raise ValueError(f"top-k needs 1 <= k <= slots, not k={k} with {slots} slots")
    if backend.choose("topk_address", {"triton": lambda: backend.triton_obstacle(query, keys, visible)}) == "triton":
        from memnets.kernels.triton import topk_address as kernel

        return kernel.topk_address(query, keys, visible, k)
    return topk_address_reference(query, keys, visible, k)


def topk_address_reference(query: Tensor, keys: Tensor, visible: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    with torch.no_grad():
        scores = torch.einsum("bhtw,bhnw->bhtn", query, keys).masked_fill(~visible[:, None], -torch.inf)
        indices = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
        hidden = ~visible[:, None].expand_as(scores).gather(-1, indices)
    # Scored again, chosen keys only: the backward pass then touches k slots, not all.
    best = (query[..., None, :] * gather_slots(keys, indices)).sum(-1)
    return best.masked_fill(hidden, -torch.inf), indices


def gather_slots(
    values: Float[Tensor, "batch heads slots word"], indices: Int[Tensor, "batch heads time k"]
) -> Float[Tensor, "batch heads time k word"]:
    """Rows of `values` at `indices`."""
    time, k = indices.shape[2:]
    flat = rearrange(indices, "b h t k -> b h (t k) 1").expand(-1, -1, -1, values.shape[-1])
    return rearrange(values.gather(2, flat), "b h (t k) w -> b h t k w", t=time, k=k)
