"""Sparse addressing: the k slots nearest to each query, exactly."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu import topk_address as cpu
from memnets.ops import backend
from memnets.ops.read_slots import gather_slots
from memnets.ops.sequence import in_one_precision, place_obstacle


def topk_address(
    query: Float[Tensor, "batch heads time word"],
    keys: Float[Tensor, "batch key_heads slots word"],
    stamps: Int[Tensor, "batch slots"],
    oldest: Int[Tensor, "batch time"],
    newest: Int[Tensor, "batch time"],
    k: int,
    decay: Float[Tensor, " heads"] | None = None,
) -> tuple[Float[Tensor, "batch heads time k"], Int[Tensor, "batch heads time k"]]:
    """Scores and slots of the k best visible keys, best first, ties to the lower slot.

    A score is the dot product, less decay · (newest - stamp): what a head loses for every step of a slot's age.

    A query sees the slots with oldest <= stamp <= newest: of a ring buffer, positions say, of which an empty slot has
    none that is ever asked for. Query head i asks key head i // (heads / key_heads).

    Where fewer than k keys are visible the remaining scores are -inf and their slots arbitrary. A score that is no
    number comes before all others. The choice of slots has no gradient; the scores' gradients reach the query and the
    k chosen keys, and the decay.

    Raises:
        ValueError: k is not between 1 and the number of slots, or heads are no multiple of key heads.
        BackendError: the backend asked for by name can't serve the call.
    """
    slots = keys.shape[2]
    if not 1 <= k <= slots:
        raise ValueError(f"top-k needs 1 <= k <= slots, not k={k} with {slots} slots")
    if query.shape[1] % keys.shape[1]:
        raise ValueError(f"query heads must be a multiple of key heads, not {query.shape[1]} of {keys.shape[1]}")
    given = (query, keys, stamps, oldest, newest, decay)
    obstacles = {"triton": lambda: backend.triton_obstacle(*given), "cpu": lambda: _cpu_obstacle(given)}
    chosen = backend.choose("topk_address", obstacles)
    if chosen == "triton":
        from memnets.kernels.triton import topk_address as kernel

        return kernel.topk_address(*given[:5], k, decay)
    if chosen == "cpu":
        scores, indices = in_one_precision(cpu.run, given, k)
        return scores, indices
    return topk_address_reference(*given[:5], k, decay)


def _cpu_obstacle(given: tuple[Tensor | None, ...]) -> str | None:
    """Return why the C++ kernel can't serve these tensors, None if it can."""
    if reason := place_obstacle(given) or backend.transform_obstacle():
        return reason
    return backend.build_obstacle("topk_address", cpu.register)


def topk_address_reference(
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    oldest: Tensor,
    newest: Tensor,
    k: int,
    decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    with torch.no_grad():
        hidden = (stamps[:, None] < oldest[..., None]) | (stamps[:, None] > newest[..., None])
        age = newest[..., None] - stamps[:, None]
        shared = rearrange(query, "b (g share) t w -> b g share t w", g=keys.shape[1])
        scores = torch.einsum("bgstw,bgnw->bgstn", shared, keys).flatten(1, 2)
        if decay is not None:
            scores = scores - decay[:, None, None] * age[:, None]
        scores = scores.masked_fill(hidden[:, None], -torch.inf)
        indices = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
        unseen = hidden[:, None].expand_as(scores).gather(-1, indices)
    # Scored again, chosen keys only: the backward pass then touches k slots, not all.
    best = (query[..., None, :] * gather_slots(keys, indices)).sum(-1)
    if decay is not None:
        best = best - decay[:, None, None] * age[:, None].expand(-1, query.shape[1], -1, -1).gather(-1, indices)
    return best.masked_fill(unseen, -torch.inf), indices
