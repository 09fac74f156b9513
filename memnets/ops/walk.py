"""Walks through a graph: where chains of weighted relations lead from a node, over what is touched alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.ops.graph import follow_reference
from memnets.ops.sequence import in_one_precision


def walk(
    start: Int[Tensor, " batch"],
    relation_weights: Float[Tensor, "batch chains hops relations_and_stay"],
    source: Int[Tensor, "batch edges"],
    relation: Int[Tensor, "batch edges"],
    target: Int[Tensor, "batch edges"],
    mask: Bool[Tensor, "batch edges"],
    num_nodes: int,
) -> Float[Tensor, "batch {num_nodes}"]:
    """Weights of nodes after all hops, summed over chains: Σ_c of `memnets.ops.graph.follow`, hop by hop, from `start`.

    A hop costs what the edges that leave nodes touched before it cost; of the whole graph, edges are sorted by source
    (once if all rows share it, by `Tensor.expand`) and nodes get their 0. Where most nodes are touched anyway, `follow`
    is as fast.
    """
    with torch.autocast(relation_weights.device.type, enabled=False):
        given = (relation_weights, start, source, relation, target, mask)
        return in_one_precision(lambda parts: (_walk(parts, num_nodes),), given)[0]


def walk_reference(
    start: Tensor,
    relation_weights: Tensor,
    source: Tensor,
    relation: Tensor,
    target: Tensor,
    mask: Tensor,
    num_nodes: int,
) -> Tensor:
    """The same by a matrix of each relation."""
    summed = relation_weights.new_zeros(len(start), num_nodes)
    for chain in relation_weights.unbind(1):
        nodes = torch.nn.functional.one_hot(start, num_nodes).to(chain)
        for weights in chain.unbind(1):
            nodes = follow_reference(nodes, weights, source, relation, target, mask)
        summed = summed + nodes
    return summed


class _Leaving(NamedTuple):
    """Edges in the order of the nodes they leave: those of node i are `begins[i]` up to `begins[i + 1]`.

    Nodes of rows with graphs of their own are numbered through: row · num_nodes + node.
    """

    shared: bool
    begins: Int[Tensor, " nodes_and_end"]
    relation: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]


def _walk(given: tuple[Tensor, ...], num_nodes: int) -> Tensor:
    relation_weights, start, source, relation, target, mask = given
    batch, chains, _, kinds = relation_weights.shape
    leaving = _leaving(source, relation, target, mask, num_nodes)
    touched = torch.arange(batch, device=start.device) * num_nodes + start  # row and node as one number
    values = relation_weights.new_ones(batch, chains)
    for weights in relation_weights.unbind(2):
        by_kind = weights.mT.flatten(0, 1)  # [row · kinds + kind, chains]
        row = touched // num_nodes
        sender, edge = _edges_of(touched % num_nodes if leaving.shared else touched, leaving.begins)
        of_row = row[sender]
        sent = values.index_select(0, sender) * by_kind.index_select(0, of_row * kinds + leaving.relation[edge])
        stayed = values * by_kind.index_select(0, row * kinds + kinds - 1)
        reached = torch.cat([touched, of_row * num_nodes + leaving.target[edge]])
        touched, places = reached.unique(return_inverse=True)
        values = values.new_zeros(len(touched), chains).index_add(0, places, torch.cat([stayed, sent]))
    return values.new_zeros(batch * num_nodes).index_add(0, touched, values.sum(1)).view(batch, num_nodes)


def _leaving(source: Tensor, relation: Tensor, target: Tensor, mask: Tensor, num_nodes: int) -> _Leaving:
    shared = all(len(part) == 1 or part.stride(0) == 0 for part in (source, relation, target, mask))
    if shared:
        source, relation, target, mask = (part[:1] for part in (source, relation, target, mask))
    rows = torch.arange(len(source), device=source.device)[:, None]
    source = (source + rows * num_nodes)[mask]
    order = source.argsort(stable=True)
    counts = torch.bincount(source, minlength=len(mask) * num_nodes)
    begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return _Leaving(shared, begins, relation[mask][order], target[mask][order])


def _edges_of(nodes: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Every edge that leaves some nodes: the place in `nodes` of its source, and its number."""
    first = begins[nodes]
    counts = begins[nodes + 1] - first
    sender = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return sender, (first - before)[sender] + torch.arange(len(sender), device=nodes.device)
