"""A memory of side² slots, searched by 2 · side half keys (product keys: Lample et al. 2019, arXiv:1907.05242)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops import backend
from memnets.ops.topk_address import topk_address_reference


def product_key_address(
    query: Float[Tensor, "rows heads word"], half_keys: Float[Tensor, "heads 2 side half"], k: int
) -> tuple[Float[Tensor, "rows heads k"], Int[Tensor, "rows heads k"]]:
    """Scores and slots of the k best of the side² keys, best first, of equal scores the lower slot first.

    Slot i · side + j has half key i of the first kind and j of the second; its score is that of the query's first half
    with the one plus that of its second half with the other (section 3.2). The k best slots are among the k best
    of either kind: the search is exact. The choice has no gradient; the scores' gradients reach the query and the
    chosen half keys. Softmax of the scores gives the weights (equation 2).

    Raises:
        ValueError: the query isn't twice as wide as half a key, or k is not between 1 and `side`.
        BackendError: the backend asked for by name can't serve the call.
    """
    side, half = half_keys.shape[2:]
    if query.shape[2] != 2 * half:
        raise ValueError(f"a query takes both halves of a key: {2 * half} numbers wide, not {query.shape[2]}")
    if not 1 <= k <= side:
        raise ValueError(f"product keys need 1 <= k <= side, not k={k} with {side} half keys a side")
    obstacles = {"triton": lambda: backend.triton_obstacle(query, half_keys)}
    if backend.choose("product_key_address", obstacles) == "triton":
        from memnets.kernels.triton import product_key as kernel

        return kernel.product_key_address(query, half_keys, k)
    return product_key_address_reference(query, half_keys, k)


def product_key_address_reference(query: Tensor, half_keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    halves = rearrange(query, "r h (two d) -> 1 (h two) r d", two=2)
    keys = rearrange(half_keys, "h two n d -> 1 (h two) n d")
    stamps = torch.zeros(1, keys.shape[2], dtype=torch.long, device=query.device)
    of_all = torch.zeros(1, halves.shape[2], dtype=torch.long, device=query.device)
    scores, places = topk_address_reference(halves, keys, stamps, of_all, of_all, k)
    first, second = rearrange(scores, "1 (h two) r k -> two r h k", two=2)
    i, j = rearrange(places, "1 (h two) r k -> two r h k", two=2)
    sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
    slots, by_slot = (i[..., :, None] * half_keys.shape[2] + j[..., None, :]).flatten(-2).sort(-1)
    sums = sums.gather(-1, by_slot)  # lower slots come first, and stay so where sums are equal
    best = torch.sort(sums.detach(), dim=-1, descending=True, stable=True).indices[..., :k]
    return sums.gather(-1, best), slots.gather(-1, best)


def weighted_gather(
    values: Float[Tensor, "slots word"],
    weights: Float[Tensor, "rows heads k"],
    indices: Int[Tensor, "rows heads k"],
) -> Float[Tensor, "rows heads word"]:
    """Σ_j weights(j) values(indices(j)) (equation 3), for every row and head.

    A slot may be chosen any number of times; its gradient is the sum over all choices, made in a fixed order.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    obstacles = {"triton": lambda: backend.triton_obstacle(indices, values, weights, mixed=True)}
    if backend.choose("weighted_gather", obstacles) == "triton":
        from memnets.kernels.triton import product_key as kernel

        return kernel.weighted_gather(values, weights, indices)
    return weighted_gather_reference(values, weights, indices)


def weighted_gather_reference(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    rows = values.index_select(0, indices.flatten()).view(*indices.shape, values.shape[1])
    return (weights[..., None] * rows).sum(-2)
