"""A memory of side² slots, searched by 2 · side half keys (product keys: Lample et al. 2019, arXiv:1907.05242)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu import product_key as cpu
from memnets.ops import backend
from memnets.ops.sequence import in_one_precision, place_obstacle


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
    obstacles = {
        "triton": lambda: backend.triton_obstacle(query, half_keys),
        "cpu": lambda: _cpu_obstacle(query, half_keys) or _too_many(side),
    }
    chosen = backend.choose("product_key_address", obstacles)
    if chosen == "triton":
        from memnets.kernels.triton import product_key as kernel

        return kernel.product_key_address(query, half_keys, k)
    if chosen == "cpu":
        scores, indices = in_one_precision(lambda given: cpu.address(given[0], given[1], k), (query, half_keys))
        return scores, indices
    return product_key_address_reference(query, half_keys, k)


def product_key_address_reference(query: Tensor, half_keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    halves = rearrange(query, "r h (two d) -> r h two d", two=2)
    scores, places = _best(torch.einsum("rhtd,htsd->rhts", halves, half_keys), k)
    first, second = scores.unbind(2)
    i, j = places.unbind(2)
    sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
    slots, by_slot = (i[..., :, None] * half_keys.shape[2] + j[..., None, :]).flatten(-2).sort(-1)
    sums = sums.gather(-1, by_slot)  # lower slots come first, and stay so where sums are equal
    best, places = _best(sums, k)
    return best, slots.gather(-1, places)


def _best(scores: Float[Tensor, "*rows n"], k: int) -> tuple[Float[Tensor, "*rows k"], Int[Tensor, "*rows k"]]:
    """The k greatest, in order, and their places, of equal ones the lower first."""
    places = torch.sort(scores.detach(), dim=-1, descending=True, stable=True).indices[..., :k]
    return scores.gather(-1, places), places


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
    obstacles = {
        "triton": lambda: backend.triton_obstacle(indices, values, weights, mixed=True),
        "cpu": lambda: _cpu_obstacle(indices, values, weights),
    }
    chosen = backend.choose("weighted_gather", obstacles)
    if chosen == "triton":
        from memnets.kernels.triton import product_key as kernel

        return kernel.weighted_gather(values, weights, indices)
    if chosen == "cpu":
        (vectors,) = in_one_precision(lambda given: (cpu.gather(*given),), (values, weights, indices))
        return vectors
    return weighted_gather_reference(values, weights, indices)


def weighted_gather_reference(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    rows = values.index_select(0, indices.flatten()).view(*indices.shape, values.shape[1])
    return (weights[..., None] * rows).sum(-2)


def _cpu_obstacle(*given: Tensor) -> str | None:
    """Return why the C++ kernels can't serve these tensors, None if they can."""
    if reason := place_obstacle(given):
        return reason
    if any(tensor.numel() == 0 for tensor in given):
        return "there is nothing to run: the batch or the memory is empty"
    return backend.transform_obstacle() or backend.build_obstacle("product_key", cpu.register)


def _too_many(side: int) -> str | None:
    return f"there are more than 65536 half keys a side: {side}" if side > 65536 else None
