"""Reading and writing in one pass over the memory: each program has a block of one memory's slots, and all heads.

Sums over slots are made of a partial sum per block, added up afterwards in a fixed order: results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memnets.kernels.triton.launch import block_slots, ceil_power, compute_type, launch


@triton.jit
def _tile(first, slots, word, BLOCK: tl.constexpr, WORD: tl.constexpr):
    """Slots and components of a block, which of them there are, and the same of the whole block's numbers."""
    n, w = first + tl.arange(0, BLOCK), tl.arange(0, WORD)
    here, inside = n < slots, w < word
    return n, w, here, inside, n[:, None].to(tl.int64) * word + w[None, :], here[:, None] & inside[None, :]


@triton.jit
def _forward(memory, read_weights, write_weights, erase, add, read_parts, after, slots, word,
             READS: tl.constexpr, WRITES: tl.constexpr, BLOCK: tl.constexpr, WORD: tl.constexpr,
             TYPE: tl.constexpr):  # fmt: skip
    b, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    n, w, here, inside, at, both = _tile(block * BLOCK, slots, word, BLOCK, WORD)
    rows = tl.load(memory + b * slots * word + at, mask=both, other=0.0).to(TYPE)
    for h in range(READS):
        weight = tl.load(read_weights + (b * READS + h) * slots + n, mask=here, other=0.0).to(TYPE)
        part = read_parts + ((b * blocks + block) * READS + h) * word
        tl.store(part + w, tl.sum(weight[:, None] * rows, 0), mask=inside)
    keep, added = tl.full((BLOCK, WORD), 1.0, TYPE), tl.zeros((BLOCK, WORD), TYPE)
    for h in range(WRITES):
        weight = tl.load(write_weights + (b * WRITES + h) * slots + n, mask=here, other=0.0).to(TYPE)[:, None]
        keep *= 1.0 - weight * tl.load(erase + (b * WRITES + h) * word + w, mask=inside, other=0.0).to(TYPE)[None, :]
        added += weight * tl.load(add + (b * WRITES + h) * word + w, mask=inside, other=0.0).to(TYPE)[None, :]
    tl.store(after + b * slots * word + at, rows * keep + added, mask=both)


@triton.jit
def _backward(memory, read_weights, write_weights, erase, add, d_reads, d_after, d_memory, d_read_weights,
              d_write_weights, erase_parts, add_parts, slots, word, READS: tl.constexpr, WRITES: tl.constexpr,
              BLOCK: tl.constexpr, WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    b, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    n, w, here, inside, at, both = _tile(block * BLOCK, slots, word, BLOCK, WORD)
    rows = tl.load(memory + b * slots * word + at, mask=both, other=0.0).to(TYPE)
    d_rows = tl.load(d_after + b * slots * word + at, mask=both, other=0.0).to(TYPE)
    keep = tl.full((BLOCK, WORD), 1.0, TYPE)
    for h in range(WRITES):
        weight = tl.load(write_weights + (b * WRITES + h) * slots + n, mask=here, other=0.0).to(TYPE)
        erased = tl.load(erase + (b * WRITES + h) * word + w, mask=inside, other=0.0).to(TYPE)
        added = tl.load(add + (b * WRITES + h) * word + w, mask=inside, other=0.0).to(TYPE)
        d_keep = d_rows * rows  # of this head's own factor, once the other heads' are in
        for other in range(WRITES):
            others = tl.load(write_weights + (b * WRITES + other) * slots + n, mask=here & (other != h), other=0.0)
            theirs = tl.load(erase + (b * WRITES + other) * word + w, mask=inside, other=0.0).to(TYPE)
            d_keep *= 1.0 - others.to(TYPE)[:, None] * theirs[None, :]
        keep *= 1.0 - weight[:, None] * erased[None, :]
        d_weight = tl.sum(d_rows * added[None, :] - d_keep * erased[None, :], 1)
        tl.store(d_write_weights + (b * WRITES + h) * slots + n, d_weight, mask=here)
        part = ((b * blocks + block) * WRITES + h) * word + w
        tl.store(erase_parts + part, -tl.sum(d_keep * weight[:, None], 0), mask=inside)
        tl.store(add_parts + part, tl.sum(d_rows * weight[:, None], 0), mask=inside)
    d_rows *= keep
    for h in range(READS):
        weight = tl.load(read_weights + (b * READS + h) * slots + n, mask=here, other=0.0).to(TYPE)
        d_read = tl.load(d_reads + (b * READS + h) * word + w, mask=inside, other=0.0).to(TYPE)
        tl.store(d_read_weights + (b * READS + h) * slots + n, tl.sum(rows * d_read[None, :], 1), mask=here)
        d_rows += weight[:, None] * d_read[None, :]
    tl.store(d_memory + b * slots * word + at, d_rows, mask=both)


def _plan(memory: Tensor, reads: int, writes: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Programs, and the constants both kernels are compiled with."""
    batch, slots, word = memory.shape
    block = block_slots(slots, word)
    constants = {"READS": reads, "WRITES": writes, "BLOCK": block, "WORD": ceil_power(word)}
    return (batch, triton.cdiv(slots, block)), constants | {"TYPE": compute_type(memory)}


@torch.library.custom_op("memnets::read_and_write", mutates_args=())
def read_and_write(
    memory: Tensor, read_weights: Tensor, write_weights: Tensor, erase: Tensor, add: Tensor
) -> tuple[Tensor, Tensor]:
    """See memnets.ops.erase_add."""
    given = [tensor.contiguous() for tensor in (memory, read_weights, write_weights, erase, add)]
    batch, slots, word = memory.shape
    reads = read_weights.shape[1]
    grid, constants = _plan(memory, reads, write_weights.shape[1])
    parts = _wide(memory, batch, grid[1], reads, word)
    after = torch.empty_like(given[0])
    launch(_forward, grid, *given, parts, after, slots, word, **constants)
    return parts.sum(1).to(memory.dtype), after


@read_and_write.register_fake
def _(memory: Tensor, read_weights: Tensor, write_weights: Tensor, erase: Tensor, add: Tensor) -> tuple[Tensor, Tensor]:
    batch, slots, word = memory.shape
    return memory.new_empty(batch, read_weights.shape[1], word), memory.new_empty(batch, slots, word)


@torch.library.custom_op("memnets::read_and_write_backward", mutates_args=())
def read_and_write_backward(
    d_reads: Tensor,
    d_after: Tensor,
    memory: Tensor,
    read_weights: Tensor,
    write_weights: Tensor,
    erase: Tensor,
    add: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all five arguments."""
    given = [tensor.contiguous() for tensor in (memory, read_weights, write_weights, erase, add, d_reads, d_after)]
    batch, slots, word = memory.shape
    writes = write_weights.shape[1]
    grid, constants = _plan(memory, read_weights.shape[1], writes)
    found = [torch.empty_like(tensor) for tensor in given[:3]]
    parts = [_wide(memory, batch, grid[1], writes, word) for _ in range(2)]
    launch(_backward, grid, *given, *found, *parts, slots, word, **constants)
    d_erase, d_add = (part.sum(1).to(memory.dtype) for part in parts)
    return found[0], found[1], found[2], d_erase, d_add


@read_and_write_backward.register_fake
def _(d_reads: Tensor, d_after: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in given)


def _wide(like: Tensor, *shape: int) -> Tensor:
    """Room for partial sums: in float32 at least."""
    return like.new_empty(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, d_reads: Tensor, d_after: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.memnets.read_and_write_backward(d_reads, d_after, *ctx.saved_tensors)


read_and_write.register_autograd(_gradient, setup_context=_save)
