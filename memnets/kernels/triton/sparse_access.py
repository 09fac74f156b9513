"""Sparse reads are sums of rows; in a sparse write each program has one entry, a slot that some head names.

Of the entries that name the same slot the first writes its row, so that no row is written twice. Rows are read from the
memory as it was: the order of programs doesn't matter.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memnets.kernels.triton.launch import ceil_power, compute_type, launch
from memnets.kernels.triton.rows import sum_rows, sum_rows_backward


@triton.jit
def _weight(weights, indices, start, slot, k, K: tl.constexpr, TYPE: tl.constexpr):
    """Weight of a slot for the head whose entries begin at `start`: the sum over those that name it."""
    total = tl.zeros((K,), TYPE)
    for first in range(0, k, K):
        j = first + tl.arange(0, K)
        named = tl.load(indices + start + j, mask=j < k, other=-1) == slot
        total += tl.load(weights + start + j, mask=named, other=0.0).to(TYPE)
    return tl.sum(total, 0)


@triton.jit
def _is_first(indices, start, entry, slot, ENTRIES: tl.constexpr):
    """Whether no entry before this one, of any head, names the slot."""
    before = tl.zeros((ENTRIES,), tl.int32)
    for first in range(0, entry, ENTRIES):
        e = first + tl.arange(0, ENTRIES)
        before += (tl.load(indices + start + e, mask=e < entry, other=-1) == slot).to(tl.int32)
    return tl.sum(before, 0) == 0


@triton.jit
def _forward(memory, weights, indices, erase, add, after, slots, word, k, HEADS: tl.constexpr, K: tl.constexpr,
             WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    b, entry = (tl.program_id(0) // (HEADS * k)).to(tl.int64), tl.program_id(0) % (HEADS * k)
    w, start = tl.arange(0, WORD), b * HEADS * k
    inside = w < word
    slot = tl.load(indices + start + entry)
    if _is_first(indices, start, entry, slot, K):
        row = tl.load(memory + (b * slots + slot) * word + w, mask=inside, other=0.0).to(TYPE)
        added = tl.zeros((WORD,), TYPE)
        for h in range(HEADS):
            weight, at = _weight(weights, indices, start + h * k, slot, k, K, TYPE), (b * HEADS + h) * word + w
            row *= 1.0 - weight * tl.load(erase + at, mask=inside, other=0.0).to(TYPE)
            added += weight * tl.load(add + at, mask=inside, other=0.0).to(TYPE)
        tl.store(after + (b * slots + slot) * word + w, row + added, mask=inside)


@triton.jit
def _backward(memory, weights, indices, erase, add, d_after, d_memory, d_weights, erase_parts, add_parts, slots, word,
              k, HEADS: tl.constexpr, K: tl.constexpr, WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    b, entry = (tl.program_id(0) // (HEADS * k)).to(tl.int64), tl.program_id(0) % (HEADS * k)
    w, start, own = tl.arange(0, WORD), b * HEADS * k, entry // k
    inside = w < word
    slot = tl.load(indices + start + entry)
    at = (b * slots + slot) * word + w
    d_row = tl.load(d_after + at, mask=inside, other=0.0).to(TYPE)
    others = tl.full((WORD,), 1.0, TYPE)  # what heads other than the entry's own keep of the row
    for h in range(HEADS):
        weight = tl.where(own == h, 0.0, _weight(weights, indices, start + h * k, slot, k, K, TYPE))
        others *= 1.0 - weight * tl.load(erase + (b * HEADS + h) * word + w, mask=inside, other=0.0).to(TYPE)
    erased = tl.load(erase + (b * HEADS + own) * word + w, mask=inside, other=0.0).to(TYPE)
    added = tl.load(add + (b * HEADS + own) * word + w, mask=inside, other=0.0).to(TYPE)
    if _is_first(indices, start, entry, slot, K):
        weight = _weight(weights, indices, start + own * k, slot, k, K, TYPE)
        tl.store(d_memory + at, d_row * others * (1.0 - weight * erased), mask=inside)
    d_keep = d_row * others * tl.load(memory + at, mask=inside, other=0.0).to(TYPE)
    tl.store(d_weights + start + entry, tl.sum(d_row * added - d_keep * erased, 0))
    # Entries of a head that name one slot share its weight: each adds what its own part of it carries.
    share = tl.load(weights + start + entry).to(TYPE)
    part = (start + entry) * word + w
    tl.store(erase_parts + part, -share * d_keep, mask=inside)
    tl.store(add_parts + part, share * d_row, mask=inside)


def _constants(memory: Tensor, indices: Tensor) -> dict[str, Any]:
    """What both kernels are compiled with."""
    _, heads, k = indices.shape
    sizes = {"HEADS": heads, "K": min(ceil_power(k), 64), "WORD": ceil_power(memory.shape[2])}
    return sizes | {"TYPE": compute_type(memory)}


@torch.library.custom_op("memnets::sparse_read", mutates_args=())
def sparse_read(memory: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """See memnets.ops.sparse_access."""
    return sum_rows(memory, weights, indices)


@sparse_read.register_fake
def _(memory: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    (batch, heads, _), word = indices.shape, memory.shape[2]
    return memory.new_empty((batch, heads, word), dtype=torch.promote_types(memory.dtype, weights.dtype))


@torch.library.custom_op("memnets::sparse_read_backward", mutates_args=())
def sparse_read_backward(d_vectors: Tensor, memory: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of memory and weights."""
    return sum_rows_backward(d_vectors, memory, weights, indices)


@sparse_read_backward.register_fake
def _(d_vectors: Tensor, memory: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return memory.new_empty(memory.shape), weights.new_empty(weights.shape)


@torch.library.custom_op("memnets::sparse_write", mutates_args=())
def sparse_write(memory: Tensor, weights: Tensor, indices: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """See memnets.ops.sparse_access."""
    given = [tensor.contiguous() for tensor in (memory, weights, indices, erase, add)]
    after = given[0].clone()
    sizes = (*memory.shape[1:], indices.shape[2])
    launch(_forward, (indices.numel(),), *given, after, *sizes, **_constants(memory, indices))
    return after


@sparse_write.register_fake
def _(memory: Tensor, weights: Tensor, indices: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    return memory.new_empty(memory.shape)


@torch.library.custom_op("memnets::sparse_write_backward", mutates_args=())
def sparse_write_backward(
    d_after: Tensor, memory: Tensor, weights: Tensor, indices: Tensor, erase: Tensor, add: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all arguments but the indices."""
    given = [tensor.contiguous() for tensor in (memory, weights, indices, erase, add, d_after)]
    d_memory, d_weights = given[-1].clone(), torch.empty_like(given[1])
    shape, wide = (*indices.shape, memory.shape[2]), torch.promote_types(memory.dtype, torch.float32)
    parts = [memory.new_empty(shape, dtype=wide) for _ in range(2)]
    found, sizes = (d_memory, d_weights, *parts), (*memory.shape[1:], indices.shape[2])
    launch(_backward, (indices.numel(),), *given, *found, *sizes, **_constants(memory, indices))
    d_erase, d_add = (part.sum(2).to(memory.dtype) for part in parts)
    return d_memory, d_weights, d_erase, d_add


@sparse_write_backward.register_fake
def _(
    d_after: Tensor, memory: Tensor, weights: Tensor, indices: Tensor, erase: Tensor, add: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_memory, d_weights, d_erase, d_add = (part.new_empty(part.shape) for part in (memory, weights, erase, add))
    return d_memory, d_weights, d_erase, d_add


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _read_gradient(ctx: Any, d_vectors: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.memnets.sparse_read_backward(d_vectors, *ctx.saved_tensors), None


def _write_gradient(ctx: Any, d_after: Tensor) -> tuple[Tensor | None, ...]:
    d_memory, d_weights, d_erase, d_add = torch.ops.memnets.sparse_write_backward(d_after, *ctx.saved_tensors)
    return d_memory, d_weights, None, d_erase, d_add


sparse_read.register_autograd(_read_gradient, setup_context=_save)
sparse_write.register_autograd(_write_gradient, setup_context=_save)
