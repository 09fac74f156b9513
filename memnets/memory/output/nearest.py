"""The nearest of many keys, exactly, in memory that does not grow with their number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops.topk_address import topk_address

QUERIES, KEYS = 1024, 65_536
"""So many are compared at once."""

COLUMNS = 8
"""Columns of a key that say how long it is: several, as one of large numbers would spoil a search in few bits."""


def nearest(
    queries: Float[Tensor, "queries hidden"], keys: Float[Tensor, "entries hidden"], k: int
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """Squared Euclidean distances and places of the k nearest keys, nearest first; among equals any.

    Keys are ranked by query·key - |key|²/2, block by block, as `topk_address` ranks them. The chosen are then measured
    by their differences, as a small distance between long vectors is lost in that sum.

    Raises:
        ValueError: k is not between 1 and the number of keys.
    """
    if not 1 <= k <= len(keys):
        raise ValueError(f"the nearest of {len(keys)} keys: k must be between 1 and their number, not {k}")
    found = [_nearest(some, keys, k) for some in queries.split(QUERIES)]
    distances, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, places


def nearest_reference(
    queries: Float[Tensor, "queries hidden"], keys: Float[Tensor, "entries hidden"], k: int
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """The same in plain PyTorch, all distances at once."""
    distances, places = (queries[:, None] - keys).square().sum(-1).topk(k, largest=False)
    return distances, places


def _nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    asked = torch.cat([queries, queries.new_ones(len(queries), COLUMNS)], dim=1)
    middle = keys[:KEYS].square().sum(-1).mean()
    for first in range(0, len(keys), KEYS):
        block = keys[first : first + KEYS]
        shortness = (middle - block.square().sum(-1, keepdim=True)) / (2 * COLUMNS)
        found, at = _most_alike(asked, torch.cat([block, shortness.expand(-1, COLUMNS)], dim=1), min(k, len(block)))
        best, places = torch.cat([best, found], 1), torch.cat([places, at + first], 1)
        best, kept = best.topk(min(k, best.shape[1]), sorted=False)
        places = places.gather(1, kept)
    distances, order = (keys[places] - queries[:, None]).square().sum(-1).sort(dim=-1)
    return distances, places.gather(1, order)


def _most_alike(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and places of the k keys of largest dot product with each query."""
    stamps, now = (torch.zeros(1, len(some), dtype=torch.long, device=keys.device) for some in (keys, queries))
    scores, places = topk_address(queries[None, None], keys[None, None], stamps, now, now, k)
    return scores[0, 0], places[0, 0]
