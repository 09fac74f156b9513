"""What lies around a node of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memnets.contracts import Edges, map_tensors


class Neighbourhood(NamedTuple):
    """What lies within some steps of a start, for each of a batch of starts: the start is node 0.

    Attributes:
        nodes: the graph's numbers of the nodes, nearest first.
        mask: which nodes there are; the others are padding.
        distances: fewest steps from the start.
        edges: between these nodes, which they number from 0.
    """

    nodes: Int[Tensor, "batch nodes"]
    mask: Bool[Tensor, "batch nodes"]
    distances: Int[Tensor, "batch nodes"]
    edges: Edges


def around(edges: Edges, num_nodes: int, starts: Sequence[int], num_hops: int) -> Neighbourhood:
    """Return what edges `[1 edges]` reach from each start in `num_hops` steps at most, and all edges between.

    Raises:
        ValueError: no start, or less than 0 hops.
    """
    if not starts or num_hops < 0:
        raise ValueError(f"a neighbourhood needs a start and 0 hops at least, not {len(starts)} and {num_hops}")
    return _side_by_side([_around(edges, num_nodes, start, num_hops) for start in starts])


def _around(edges: Edges, num_nodes: int, start: int, num_hops: int) -> Neighbourhood:
    """The neighbourhood of one start, as a batch of one."""
    source, relation, target = (part[0] for part in edges[:3])
    distances = torch.full((num_nodes,), -1)
    distances[start] = 0
    for hop in range(num_hops):
        reached = target[distances[source] == hop]
        distances[reached[distances[reached] < 0]] = hop + 1
    nodes = torch.argsort(torch.where(distances < 0, num_hops + 1, distances), stable=True)
    nodes = nodes[: int((distances >= 0).sum())]
    places = torch.full_like(distances, -1)
    places[nodes] = torch.arange(len(nodes))
    kept = (distances[source] >= 0) & (distances[target] >= 0)
    between = Edges(places[source[kept]], relation[kept], places[target[kept]], torch.ones_like(source[kept]).bool())
    found = Neighbourhood(nodes, torch.ones_like(nodes, dtype=torch.bool), distances[nodes], between)
    return map_tensors(lambda part: part[None], found)


def _side_by_side(found: list[Neighbourhood]) -> Neighbourhood:
    """Batches of one as one batch, padded with 0 and False."""

    def pad(*parts: Tensor) -> Tensor:
        return pad_sequence([part[0] for part in parts], batch_first=True)

    return map_tensors(pad, *found)
