"""A small network as a memory: trained while reading to give values for keys (Titans, arXiv:2501.00663, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops.sequence import in_one_precision

Weights = tuple[Tensor, ...]
"""Matrices `[batch groups in out]` of a network without biases, first to last: one alone is a linear map."""


class NeuralMemoryState(NamedTuple):
    """A network in training.

    Attributes:
        start: the weights that the chunk under way began with: where its gradients are taken, and what is read.
        weights: as they are now; with the first entry of a chunk they become its `start`.
        momentum: of the weights.
        entries: read so far; a chunk begins at every multiple of the chunk size.
    """

    start: Weights
    weights: Weights
    momentum: Weights
    entries: Int[Tensor, " batch"]


Answer = tuple[Float[Tensor, "batch heads time value"], Float[Tensor, "batch groups time"], NeuralMemoryState]


def neural_memory(
    query: Float[Tensor, "batch heads time word"],
    key: Float[Tensor, "batch groups time word"],
    value: Float[Tensor, "batch groups time value"],
    rate: Float[Tensor, "batch groups time"],
    carry: Float[Tensor, "batch groups time"],
    decay: Float[Tensor, "batch groups time"],
    state: NeuralMemoryState,
    chunk_size: int = 16,
    longest: float = math.inf,
) -> Answer:
    """What every query reads, the loss of every entry, and the network after the last entry.

    The loss of entry t is l_t = |f_W(k_t) - v_t|², summed over the components, at the weights W that its chunk began
    with; query t reads f_W(q_t) of the same W. With G_t = dl_t/dW, e_t = exp(carry_t) and a_t = exp(decay_t)

    S_t = e_t S_(t-1) - rate_t G_t, and M_t = a_t M_(t-1) + S_t (equations 13 and 14);

    M_t at a chunk's end is the next one's W. f has SiLU between its matrices, times √(2 / width), as for matrices of
    numbers with variance 1. A gradient longer than `longest`, all its matrices together, is cut to this length.

    What the gradients of a chunk come to is a sum of outer products: a matrix product of the layers' inputs and what
    came back to them, each entry weighted by how much of its step is left in the end (section 3.2). A chunk may be cut
    anywhere: the state says how far into it each row is. Low precision is computed in float32. A number that isn't
    finite spoils its row and head from its chunk's end on, and in a query its own reading; nothing else.

    Args:
        query: heads are a multiple of the groups; neighbouring heads share a group's network.
        key: of each entry.
        value: what the network is to give for it.
        rate: of learning.
        carry: logarithm of what is kept of the momentum: 0 all of it, -inf nothing.
        decay: logarithm of what is kept of the weights.
        state: before the first entry.
        chunk_size: entries whose gradients are taken at the same weights.
        longest: a gradient's greatest length.

    Raises:
        ValueError: heads that are no multiple of the groups, no entries, or a chunk_size below 1.
    """
    return _run(_by_pieces, (query, key, value, rate, carry, decay), state, chunk_size, longest)


def neural_memory_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
    carry: Tensor,
    decay: Tensor,
    state: NeuralMemoryState,
    chunk_size: int = 16,
    longest: float = math.inf,
) -> Answer:
    """The same entry by entry, every gradient a matrix of its own."""
    return _run(_by_entries, (query, key, value, rate, carry, decay), state, chunk_size, longest)


class _Given(NamedTuple):
    """Entries, `[batch groups time ...]`, and their queries, `[batch groups share time word]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    rate: Tensor
    carry: Tensor
    decay: Tensor


_Form = Callable[[_Given, NeuralMemoryState, int, float], tuple[Tensor, Tensor, NeuralMemoryState]]


def _run(form: _Form, given: tuple[Tensor, ...], state: NeuralMemoryState, chunk_size: int, longest: float) -> Answer:
    """Check, and call the form in one precision: all tensors in a row."""
    groups = given[1].shape[1]
    if given[0].shape[1] % groups:
        heads = f"{given[0].shape[1]} for {groups}"
        raise ValueError(f"neural_memory needs query heads in equal shares per key head, not {heads}")
    if not given[1].shape[2]:
        raise ValueError("neural_memory needs at least one entry, but there is none")
    if chunk_size < 1:
        raise ValueError(f"neural_memory's chunk_size must be at least 1, not {chunk_size}")

    def run(row: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        query = rearrange(row[0], "b (g r) t w -> b g r t w", g=groups)
        read, loss, after = form(_Given(query, *row[1:6]), _from_row(row[6:]), chunk_size, longest)
        return rearrange(read, "b g r t v -> b (g r) t v"), loss, *_to_row(after)

    with torch.autocast(given[0].device.type, enabled=False):
        read, loss, *after = in_one_precision(run, (*given, *_to_row(state)))
    return read, loss, _from_row(tuple(after))


def _to_row(state: NeuralMemoryState) -> tuple[Tensor, ...]:
    return *state.start, *state.weights, *state.momentum, state.entries


def _from_row(row: tuple[Tensor, ...]) -> NeuralMemoryState:
    depth = len(row) // 3
    return NeuralMemoryState(row[:depth], row[depth : 2 * depth], row[2 * depth : -1], row[-1])


def _by_entries(
    given: _Given, state: NeuralMemoryState, chunk_size: int, longest: float
) -> tuple[Tensor, Tensor, NeuralMemoryState]:
    reads, losses = [], []
    start, weights, momentum, entries = state
    for t in range(given.key.shape[2]):
        start = _where(entries % chunk_size == 0, weights, start)
        reads.append(_answer(start, given.query[:, :, :, t]))
        inputs, deltas, loss = _backward(start, given.key[:, :, t : t + 1], given.value[:, :, t : t + 1])
        gradient = [torch.einsum("bgti,bgto->bgio", *pair) for pair in zip(inputs, deltas, strict=True)]
        length = torch.stack([part.square().sum((2, 3)) for part in gradient]).sum(0)
        rate = (given.rate[:, :, t] * _shortened(length, longest))[..., None, None]
        carry, decay = given.carry[:, :, t, None, None].exp(), given.decay[:, :, t, None, None].exp()
        momentum = tuple(carry * old - rate * new for old, new in zip(momentum, gradient, strict=True))
        weights = tuple(decay * old + new for old, new in zip(weights, momentum, strict=True))
        losses.append(loss)
        entries = entries + 1
    return torch.stack(reads, dim=3), torch.cat(losses, dim=2), NeuralMemoryState(start, weights, momentum, entries)


def _by_pieces(
    given: _Given, state: NeuralMemoryState, chunk_size: int, longest: float
) -> tuple[Tensor, Tensor, NeuralMemoryState]:
    """A piece ends where a chunk does, in whichever row."""
    reads, losses = [], []
    start, weights, momentum, entries = state
    before = entries.tolist()
    edges = _edges(before, given.key.shape[2], chunk_size)
    pieces = zip(*(part.split([b - a for a, b in pairwise(edges)], _time_axis(part)) for part in given), strict=True)
    for first, piece in zip(edges, map(_Given._make, pieces), strict=False):
        start = _where(_begins(before, first, chunk_size, entries), weights, start)
        reads.append(_answer(start, piece.query.flatten(2, 3)).unflatten(2, piece.query.shape[2:4]))
        inputs, deltas, loss = _backward(start, piece.key, piece.value)
        rate = piece.rate * _shortened(_lengths(inputs, deltas), longest)
        left = _left(piece.carry, piece.decay)
        weights, momentum = _stepped(weights, momentum, inputs, deltas, rate, left)
        losses.append(loss)
    after = NeuralMemoryState(start, weights, momentum, entries + given.key.shape[2])
    return torch.cat(reads, dim=3), torch.cat(losses, dim=2), after


def _time_axis(part: Tensor) -> int:
    return 3 if part.dim() == 5 else 2


def _edges(before: list[int], time: int, chunk_size: int) -> list[int]:
    """Steps at which a chunk begins in any row, the first and the end."""
    phases = {count % chunk_size for count in before}
    begins = {step for phase in phases for step in range(-phase % chunk_size, time, chunk_size)}
    return sorted({0, time} | begins)


def _begins(before: list[int], first: int, chunk_size: int, entries: Tensor) -> Tensor | bool:
    """Rows whose chunk begins with step `first`; a bool where all rows agree."""
    begins = [(count + first) % chunk_size == 0 for count in before]
    return begins[0] if len(set(begins)) == 1 else torch.tensor(begins, device=entries.device)


def _where(rows: Tensor | bool, new: Weights, old: Weights) -> Weights:
    if isinstance(rows, bool):
        return new if rows else old
    rows = rows[:, None, None, None]
    return tuple(torch.where(rows, *pair) for pair in zip(new, old, strict=True))


def _answer(weights: Weights, vectors: Tensor) -> Tensor:
    """f(vectors)."""
    for matrix in weights[:-1]:
        vectors = F.silu(vectors @ matrix) * _scale(matrix)
    return vectors @ weights[-1]


def _scale(matrix: Tensor) -> float:
    return math.sqrt(2 / matrix.shape[-1])


def _backward(weights: Weights, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The inputs of every layer, the loss's derivatives by every layer's sums, and the loss.

    An entry's gradient by a matrix is the outer product of the two.
    """
    inputs, slopes = [key], []
    for matrix in weights[:-1]:
        sums = inputs[-1] @ matrix
        gate = sums.sigmoid()
        active = sums * gate
        inputs.append(active * _scale(matrix))
        slopes.append((gate + active * (1 - gate)) * _scale(matrix))
    error = inputs[-1] @ weights[-1] - value
    deltas = [2 * error]
    for matrix, slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        deltas.insert(0, (deltas[0] @ matrix.mT) * slope)
    return inputs, deltas, error.square().sum(-1)


def _lengths(inputs: list[Tensor], deltas: list[Tensor]) -> Tensor:
    """|G|² of every entry: |a bᵀ|² = |a|² |b|²."""
    parts = [a.square().sum(-1) * b.square().sum(-1) for a, b in zip(inputs, deltas, strict=True)]
    return torch.stack(parts).sum(0)


def _shortened(squared: Tensor, longest: float) -> Tensor | float:
    """By what to multiply vectors of these squared lengths, so that none is longer than `longest`."""
    return 1.0 if math.isinf(longest) else longest * squared.clamp_min(longest**2).rsqrt()


class _Left(NamedTuple):
    """What is left at a piece's end; of entries `[batch groups time 1]`, of what was before `[batch groups 1 1]`.

    Attributes:
        weights: of the weights before the piece, in the weights.
        momentum: of the momentum before, in the momentum.
        moved: of the momentum before, in the weights.
        steps: of every entry's step, in the weights.
        pushes: of every entry's step, in the momentum.
    """

    weights: Tensor
    momentum: Tensor
    moved: Tensor
    steps: Tensor
    pushes: Tensor


def _left(carry: Tensor, decay: Tensor) -> _Left:
    """Sums of logarithms over the entries between, never differences: -inf, too, is exact.

    A step of entry s is in the momentum after entry j by the product of e_(s+1)..e_j, and what the weights took from it
    there is kept by that of a_(j+1)..a_n. The momentum before the piece is a step of entry 0, not yet taken.
    """
    carry = F.pad(carry, (1, 0))
    kept = F.pad(decay, (0, 1)).flip(-1).cumsum(-1).flip(-1).exp()
    later = torch.ones(carry.shape[-1], carry.shape[-1], dtype=torch.bool, device=carry.device).triu(1)
    held = torch.where(later, carry[..., None, :], 0.0).cumsum(-1).exp()
    taken = later | torch.eye(len(later), dtype=torch.bool, device=later.device)
    taken[0, 0] = False
    moved, pushes = held.where(taken, 0.0) @ kept[..., None], held[..., -1:]
    return _Left(kept[..., :1, None], pushes[..., :1, :], moved[..., :1, :], moved[..., 1:, :], pushes[..., 1:, :])


def _stepped(
    weights: Weights, momentum: Weights, inputs: list[Tensor], deltas: list[Tensor], rate: Tensor, left: _Left
) -> tuple[Weights, Weights]:
    """Weights and momentum after a piece, layer by layer."""
    steps, pushes = rate[..., None] * left.steps, rate[..., None] * left.pushes
    stepped, pushed = [], []
    for matrix, old, entry, delta in zip(weights, momentum, inputs, deltas, strict=True):
        stepped.append(left.weights * matrix + left.moved * old - entry.mT @ (steps * delta))
        pushed.append(left.momentum * old - entry.mT @ (pushes * delta))
    return tuple(stepped), tuple(pushed)
