"""Sums of the rows that indices choose, and their gradients: what sparse ops are made of.

Everywhere: values [groups slots word], of which row r of a group takes those at indices [groups rows k], with weights
[groups rows k], into vectors [groups rows word]. An index of -1 chooses nothing, whatever the values hold. Nothing is
added up atomically: results repeat bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from memnets.kernels.triton.launch import block_slots, ceil_power, compute_type, launch


@triton.jit
def _sum(values, weights, indices, vectors, rows, slots, word, k, K: tl.constexpr, WORD: tl.constexpr,
         TYPE: tl.constexpr):  # fmt: skip
    row, w = tl.program_id(0).to(tl.int64), tl.arange(0, WORD)
    inside, first = w < word, row // rows * slots
    total = tl.zeros((WORD,), TYPE)
    for start in range(0, k, K):
        j = start + tl.arange(0, K)
        slot = tl.load(indices + row * k + j, mask=j < k, other=-1)
        weight = tl.load(weights + row * k + j, mask=j < k, other=0.0).to(TYPE)
        mask = (slot >= 0)[:, None] & inside[None, :]
        chosen = tl.load(values + (first + slot)[:, None] * word + w[None, :], mask=mask, other=0.0).to(TYPE)
        total += tl.sum(weight[:, None] * chosen, 0)
    tl.store(vectors + row * word + w, total, mask=inside)


@triton.jit
def _dot(values, vectors, indices, products, rows, slots, word, k, K: tl.constexpr, WORD: tl.constexpr,
         TYPE: tl.constexpr):  # fmt: skip
    row, w = tl.program_id(0).to(tl.int64), tl.arange(0, WORD)
    inside, first = w < word, row // rows * slots
    vector = tl.load(vectors + row * word + w, mask=inside, other=0.0).to(TYPE)
    for start in range(0, k, K):
        j = start + tl.arange(0, K)
        slot = tl.load(indices + row * k + j, mask=j < k, other=-1)
        mask = (slot >= 0)[:, None] & inside[None, :]
        chosen = tl.load(values + (first + slot)[:, None] * word + w[None, :], mask=mask, other=0.0).to(TYPE)
        tl.store(products + row * k + j, tl.sum(chosen * vector[None, :], 1), mask=j < k)


@triton.jit
def _scatter(slot_of, entries, weights, vectors, values, total, word, k, ENTRIES: tl.constexpr, WORD: tl.constexpr,
             TYPE: tl.constexpr):  # fmt: skip
    """Entries (a row's j-th choice is entry row * k + j) come sorted by slot: the first of each slot sums them all.

    Those of nothing come before the others, and are like the slot before the first: none of them is one to sum.
    """
    here, w = tl.program_id(0).to(tl.int64), tl.arange(0, WORD)
    inside, slot = w < word, tl.load(slot_of + here)
    if tl.load(slot_of + here - 1, mask=here > 0, other=-1) != slot:
        gathered = tl.zeros((WORD,), TYPE)
        start, more = here, here >= 0
        while more:
            place = start + tl.arange(0, ENTRIES)
            same = tl.load(slot_of + place, mask=place < total, other=-1) == slot
            entry = tl.load(entries + place, mask=same, other=0)
            weight = tl.load(weights + entry, mask=same, other=0.0).to(TYPE)
            mask = same[:, None] & inside[None, :]
            vector = tl.load(vectors + (entry // k)[:, None] * word + w[None, :], mask=mask, other=0.0).to(TYPE)
            gathered += tl.sum(weight[:, None] * vector, 0)
            start += ENTRIES
            more = tl.sum(same.to(tl.int32), 0) == ENTRIES
        tl.store(values + slot * word + w, gathered, mask=inside)


def sum_rows(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """vectors[r] = Σ_j weights[r, j] values[indices[r, j]]."""
    values, weights, indices = values.contiguous(), weights.contiguous(), indices.contiguous()
    (groups, slots, word), (_, rows, k) = values.shape, indices.shape
    vectors = values.new_empty((groups, rows, word), dtype=torch.promote_types(values.dtype, weights.dtype))
    constants = {"K": block_slots(k, word), "WORD": ceil_power(word), "TYPE": compute_type(values, weights)}
    launch(_sum, (groups * rows,), values, weights, indices, vectors, rows, slots, word, k, **constants)
    return vectors


def dot_rows(values: Tensor, vectors: Tensor, indices: Tensor, dtype: torch.dtype) -> Tensor:
    """products[r, j] = values[indices[r, j]] · vectors[r]."""
    values, vectors, indices = values.contiguous(), vectors.contiguous(), indices.contiguous()
    (groups, slots, word), (_, rows, k) = values.shape, indices.shape
    products = values.new_empty(indices.shape, dtype=dtype)
    constants = {"K": block_slots(k, word), "WORD": ceil_power(word), "TYPE": compute_type(values, vectors)}
    launch(_dot, (groups * rows,), values, vectors, indices, products, rows, slots, word, k, **constants)
    return products


def scatter_rows(weights: Tensor, vectors: Tensor, indices: Tensor, slots: int, dtype: torch.dtype) -> Tensor:
    """values[i] = Σ weights[r, j] vectors[r] over all r, j with indices[r, j] = i: the transpose of `sum_rows`."""
    weights, vectors = weights.contiguous(), vectors.contiguous()
    (groups, _, k), word = indices.shape, vectors.shape[-1]
    values = vectors.new_zeros((groups, slots, word), dtype=dtype)
    first = slots * torch.arange(groups, device=indices.device)[:, None, None]
    slot_of, entries = torch.sort(torch.where(indices < 0, -1, indices + first).flatten(), stable=True)
    total = len(entries)
    constants = {"ENTRIES": block_slots(16, word), "WORD": ceil_power(word), "TYPE": compute_type(weights, vectors)}
    launch(_scatter, (total,), slot_of, entries, weights, vectors, values, total, word, k, **constants)
    return values


def sum_rows_backward(d_vectors: Tensor, values: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `sum_rows` for values and weights."""
    d_values = scatter_rows(weights, d_vectors, indices, values.shape[1], values.dtype)
    return d_values, dot_rows(values, d_vectors, indices, weights.dtype)
