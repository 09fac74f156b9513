"""Moving along a graph's typed edges: weights of nodes that follow relations, and vectors that nodes send each other.

An edge says that `relation` leads from `source` to `target`. Every row has a graph of its own, as lists of edges; where
the mask is False there is padding, whose indices must be valid all the same. An edge that is told twice counts twice.
Rows that have one graph in common are best given as one that is expanded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.ops.sequence import in_one_precision


def follow(
    nodes: Float[Tensor, "batch nodes"],
    relation_weights: Float[Tensor, "batch relations_and_stay"],
    source: Int[Tensor, "batch edges"],
    relation: Int[Tensor, "batch edges"],
    target: Int[Tensor, "batch edges"],
    mask: Bool[Tensor, "batch edges"],
) -> Float[Tensor, "batch nodes"]:
    """Weights of nodes after one step: x'(j) = w_stay x(j) + Σ_(i, r, j) w_r x(i), where w_stay is the last weight.

    A step of Neural LP (Yang, Yang & Cohen 2017, arXiv:1702.08367, equation 7) by indices, without a matrix for any
    relation; the null relation lets a walk end early. A node without the relation loses its weight, and one with
    several targets hands it to each, so that a sum of 1 is kept only where every node has one target by every relation.
    """
    with torch.autocast(nodes.device.type, enabled=False):
        return in_one_precision(_follow, (nodes, relation_weights, source, relation, target, mask))[0]


def _follow(given: tuple[Tensor, ...]) -> tuple[Tensor]:
    if _is_shared(*given[2:]):
        return (_follow_shared(*given[:2], *(part[0] for part in given[2:])),)
    nodes, relation_weights, source, relation, target, mask = given
    sent = nodes.gather(1, source) * relation_weights.gather(1, relation) * mask
    return (_summed(relation_weights[:, -1:] * nodes, target, sent),)


def _follow_shared(
    nodes: Tensor, relation_weights: Tensor, source: Tensor, relation: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """Rows of one graph: a node's weights in all of them lie side by side, which is faster."""
    columns, weights = nodes.T.contiguous(), relation_weights.T.contiguous()
    sent = columns.index_select(0, source) * weights.index_select(0, relation) * mask[:, None]
    return (weights[-1] * columns).index_add(0, target, sent).T


def follow_reference(
    nodes: Tensor, relation_weights: Tensor, source: Tensor, relation: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """The same by a matrix of each relation."""
    matrices = _matrices(nodes.shape[1], relation_weights.shape[1] - 1, source, relation, target, mask).to(nodes)
    moved = torch.einsum("bi,br,brij->bj", nodes, relation_weights[:, :-1], matrices)
    return relation_weights[:, -1:] * nodes + moved


def propagate(
    states: Float[Tensor, "batch nodes word"],
    weights: Float[Tensor, "relations word out"],
    source: Int[Tensor, "batch edges"],
    relation: Int[Tensor, "batch edges"],
    target: Int[Tensor, "batch edges"],
    mask: Bool[Tensor, "batch edges"],
) -> Float[Tensor, "batch nodes out"]:
    """What nodes are sent: m_j = Σ_r mean over edges (i, r, j) of W_rᵀ h_i; 0 where no edge leads to j.

    The sum over neighbours of a relational graph convolution (Schlichtkrull et al. 2018, arXiv:1703.06103, equation 2)
    with c = the number of j's edges of the relation; a node's own W_0 h and the non-linearity are left to the caller.
    States are summed before they are multiplied, so nothing as large as edges times `out` is held.
    """
    with torch.autocast(states.device.type, enabled=False):
        return in_one_precision(_propagate, (states, weights, source, relation, target, mask))[0]


def _propagate(given: tuple[Tensor, ...]) -> tuple[Tensor]:
    states, weights, source, relation, target, mask = given
    (batch, num_nodes, _), num_relations = states.shape, len(weights)
    rows = torch.arange(batch, device=states.device)[:, None]
    places = target * num_relations + relation
    sent = states[rows, source] * mask[:, :, None]
    counts = _summed(states.new_zeros(batch, num_nodes * num_relations), places, mask.to(states))
    sums = _summed(states.new_zeros(*counts.shape, states.shape[2]), places, sent)
    means = (sums / counts.clamp(min=1)[:, :, None]).unflatten(1, (num_nodes, num_relations))
    return (torch.einsum("bnrw,rwo->bno", means, weights),)


def propagate_reference(
    states: Tensor, weights: Tensor, source: Tensor, relation: Tensor, target: Tensor, mask: Tensor
) -> Tensor:
    """The same by a matrix of each relation."""
    matrices = _matrices(states.shape[1], len(weights), source, relation, target, mask).to(states)
    shares = matrices / matrices.sum(2, keepdim=True).clamp(min=1)
    return torch.einsum("brij,biw,rwo->bjo", shares, states, weights)


def _is_shared(*edges: Tensor) -> bool:
    """Whether all rows are views of one: there is one, or it was expanded."""
    return all(len(part) == 1 or part.stride(0) == 0 for part in edges)


def _summed(start: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """`start [batch places ...]` plus, at each place, the values `[batch edges ...]` meant for it."""
    rows = torch.arange(len(start), device=start.device)[:, None] * start.shape[1]
    summed = start.flatten(0, 1).index_add(0, (rows + places).flatten(), values.flatten(0, 1))
    return summed.view(start.shape)


def _matrices(
    num_nodes: int, num_relations: int, source: Tensor, relation: Tensor, target: Tensor, mask: Tensor
) -> Float[Tensor, "batch relations nodes nodes"]:
    """How many edges of each relation lead from node to node."""
    edges = [F.one_hot(part, size) for part, size in ((source, num_nodes), (target, num_nodes))]
    kinds = F.one_hot(relation, num_relations) * mask[:, :, None]
    return torch.einsum("ber,bei,bej->brij", *(part.double() for part in (kinds, *edges)))
