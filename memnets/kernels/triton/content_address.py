"""Content addressing and the read by it in one pass over the memory (softmax in parts, as a memory fits no program).

First, each program has a block of one memory's slots, and all heads: scores, and the block's own softmax and read.
Then the blocks of a head are combined. Backward, one pass again: what a softmax's gradient sums over all slots is
d_read · read for the read's share, so that it is known before. All sums are made in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memnets.kernels.triton import launch as launching
from memnets.kernels.triton.launch import block_slots, ceil_power, compute_type, launch

EPSILON = tl.constexpr(1e-8)
NOTHING = tl.constexpr(float("-inf"))

FEW_BLOCKS = 256
"""If a memory has more blocks than this they are made larger, as one program combines those of a head."""

LARGEST = 8
"""Tiles, at most, of a program that needs few registers for each number."""


@triton.jit
def _inverse_norm(squares):
    return tl.rsqrt(squares + EPSILON)


@triton.jit
def _block(memory, mask, slots, word, BLOCK: tl.constexpr, WORD: tl.constexpr, TYPE: tl.constexpr):
    """A program's slots and components, which there are, which slots are addressed, and these slots' rows."""
    b = tl.program_id(0).to(tl.int64)
    n, w = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WORD)
    here, inside = n < slots, w < word
    keep = here
    if mask is not None:
        keep = here & (tl.load(mask + b * slots + n, mask=here, other=0) != 0)
    at = (b * slots + n[:, None]) * word + w[None, :]
    rows = tl.load(memory + at, mask=keep[:, None] & inside[None, :], other=0.0).to(TYPE)
    return n, w, here, inside, keep, at, rows


@triton.jit
def _score(memory, key, strength, mask, scores, maxima, sums, parts, slots, word, HEADS: tl.constexpr,
           COSINE: tl.constexpr, BLOCK: tl.constexpr, WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    b, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    n, w, here, inside, keep, _, rows = _block(memory, mask, slots, word, BLOCK, WORD, TYPE)
    if COSINE:
        inverse = _inverse_norm(tl.sum(rows * rows, 1))
    for h in range(HEADS):
        head = b * HEADS + h
        sought = tl.load(key + head * word + w, mask=inside, other=0.0).to(TYPE)
        score = tl.sum(rows * sought[None, :], 1)
        if COSINE:
            score *= _inverse_norm(tl.sum(sought * sought, 0)) * inverse
        score = tl.where(keep, score * tl.load(strength + head).to(TYPE), NOTHING)
        top = tl.max(score, 0)
        weight = tl.exp(score - tl.where(top == NOTHING, 0.0, top))
        tl.store(scores + head * slots + n, score, mask=here)
        tl.store(maxima + head * blocks + block, top)
        tl.store(sums + head * blocks + block, tl.sum(weight, 0))
        if parts is not None:
            part = parts + (head * blocks + block) * word
            tl.store(part + w, tl.sum(weight[:, None] * rows, 0), mask=inside)


@triton.jit
def _combine_read(maxima, parts, reads, head, top, total, word, blocks, GROUP: tl.constexpr, WORD: tl.constexpr,
                  TYPE: tl.constexpr):  # fmt: skip
    if tl.program_id(1) == 0:
        w, read = tl.arange(0, WORD), tl.zeros((GROUP, WORD), TYPE)
        for first in range(0, blocks, GROUP):
            i = first + tl.arange(0, GROUP)
            share = tl.exp(tl.load(maxima + head * blocks + i, mask=i < blocks, other=NOTHING) - top)
            at = (head * blocks + i[:, None]) * word + w[None, :]
            part = tl.load(parts + at, mask=(i < blocks)[:, None] & (w < word)[None, :], other=0.0)
            read += share[:, None] * part
        tl.store(reads + head * word + w, tl.sum(read, 0) / total, mask=w < word)


@triton.jit
def _combine(scores, maxima, sums, parts, weights, reads, slots, word, blocks, GROUP: tl.constexpr,
             BLOCK: tl.constexpr, WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    """Weights of one head for as many slots as a program has; its first program makes the read too."""
    head, group = tl.program_id(0).to(tl.int64), tl.arange(0, GROUP)
    tops = tl.full((GROUP,), NOTHING, TYPE)
    for first in range(0, blocks, GROUP):
        i = first + group
        tops = tl.maximum(tops, tl.load(maxima + head * blocks + i, mask=i < blocks, other=NOTHING))
    top = tl.max(tops, 0)
    top = tl.where(top == NOTHING, 0.0, top)  # no slot is left: all weights will be 0
    totals = tl.zeros((GROUP,), TYPE)
    for first in range(0, blocks, GROUP):
        i = first + group
        share = tl.exp(tl.load(maxima + head * blocks + i, mask=i < blocks, other=NOTHING) - top)
        totals += share * tl.load(sums + head * blocks + i, mask=i < blocks, other=0.0)
    total = tl.sum(totals, 0)
    total = tl.where(total == 0.0, 1.0, total)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(scores + head * slots + n, mask=n < slots, other=NOTHING)
    tl.store(weights + head * slots + n, tl.exp(score - top) / total, mask=n < slots)
    if parts is not None:
        _combine_read(maxima, parts, reads, head, top, total, word, blocks, GROUP, WORD, TYPE)


@triton.jit
def _mean(weights, d_weights, means, slots, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    """The mean, by a head's weights, of their gradients."""
    head = tl.program_id(0).to(tl.int64)
    found = tl.zeros((BLOCK,), TYPE)
    for first in range(0, slots, BLOCK):
        n = first + tl.arange(0, BLOCK)
        weight = tl.load(weights + head * slots + n, mask=n < slots, other=0.0).to(TYPE)
        found += weight * tl.load(d_weights + head * slots + n, mask=n < slots, other=0.0).to(TYPE)
    tl.store(means + head, tl.sum(found, 0))


@triton.jit
def _backward(memory, key, strength, mask, weights, d_weights, reads, d_reads, means, d_memory, key_parts,
              strength_parts, slots, word, HEADS: tl.constexpr, COSINE: tl.constexpr, BLOCK: tl.constexpr,
              WORD: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    b, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    n, w, here, inside, keep, at, rows = _block(memory, mask, slots, word, BLOCK, WORD, TYPE)
    d_rows = tl.zeros((BLOCK, WORD), TYPE)
    inverse, along = tl.full((BLOCK,), 1.0, TYPE), tl.zeros((BLOCK,), TYPE)
    if COSINE:
        inverse = _inverse_norm(tl.sum(rows * rows, 1))
    for h in range(HEADS):
        head = b * HEADS + h
        sought = tl.load(key + head * word + w, mask=inside, other=0.0).to(TYPE)
        weight = tl.load(weights + head * slots + n, mask=keep, other=0.0).to(TYPE)
        d_weight = tl.load(d_weights + head * slots + n, mask=keep, other=0.0).to(TYPE) - tl.load(means + head)
        if d_reads is not None:
            d_read = tl.load(d_reads + head * word + w, mask=inside, other=0.0).to(TYPE)
            read = tl.load(reads + head * word + w, mask=inside, other=0.0).to(TYPE)
            # Subtracted before the product: what rounding leaves is then small for the slots with most of the weight.
            d_weight += tl.sum((rows - read[None, :]) * d_read[None, :], 1)
            d_rows += weight[:, None] * d_read[None, :]
        d_score = weight * d_weight
        scale = inverse
        if COSINE:
            scale *= _inverse_norm(tl.sum(sought * sought, 0))
        similarity = tl.sum(rows * sought[None, :], 1) * scale
        turn = tl.sum(d_score * similarity, 0)
        d_similarity = d_score * tl.load(strength + head).to(TYPE)
        d_rows += (d_similarity * scale)[:, None] * sought[None, :]
        d_sought = tl.sum((d_similarity * scale)[:, None] * rows, 0)
        if COSINE:  # longer rows and keys are no more similar
            along += d_similarity * similarity
            squares = tl.sum(sought * sought, 0) + EPSILON
            d_sought -= sought * (tl.sum(d_similarity * similarity, 0) / squares)
        tl.store(strength_parts + head * blocks + block, turn)
        tl.store(key_parts + (head * blocks + block) * word + w, d_sought, mask=inside)
    d_rows -= (along * inverse * inverse)[:, None] * rows
    tl.store(d_memory + at, d_rows, mask=here[:, None] & inside[None, :])


def _plan(memory: Tensor, key: Tensor, similarity: str, largest: int) -> tuple[int, dict[str, Any]]:
    """Blocks of a pass over the memory, and the constants its kernel is compiled with."""
    slots, word = memory.shape[1:]
    width, block = ceil_power(word), block_slots(slots, word)
    while triton.cdiv(slots, block) > FEW_BLOCKS and block * width < largest * launching.TILE:
        block *= 2
    constants = {"HEADS": key.shape[1], "COSINE": similarity == "cosine", "BLOCK": block, "WORD": width}
    return triton.cdiv(slots, block), constants | {"TYPE": compute_type(memory), "num_warps": _warps(block * width)}


def _warps(numbers: int) -> int:
    return min(max(numbers // 512, 4), 16)


def _address(
    memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor | None, similarity: str, reads: Tensor | None
) -> Tensor:
    """Return the weights, and fill `reads` if it is there."""
    given = [None if tensor is None else tensor.contiguous() for tensor in (memory, key, strength, mask)]
    (batch, slots, word), heads = memory.shape, key.shape[1]
    blocks, constants = _plan(memory, key, similarity, LARGEST)
    scores, maxima, sums = (_wide(memory, batch, heads, size) for size in (slots, blocks, blocks))
    parts = None if reads is None else _wide(memory, batch, heads, blocks, word)
    launch(_score, (batch, blocks), *given, scores, maxima, sums, parts, slots, word, **constants)
    weights = memory.new_empty(batch, heads, slots)
    group, block = block_slots(blocks, word, LARGEST), block_slots(slots, 1)
    grid = (batch * heads, triton.cdiv(slots, block))
    tiles = {"GROUP": group, "BLOCK": block, "WORD": ceil_power(word), "num_warps": _warps(group * ceil_power(word))}
    found = (scores, maxima, sums, parts, weights, reads)
    launch(_combine, grid, *found, slots, word, blocks, **tiles, TYPE=constants["TYPE"])
    return weights


def _wide(like: Tensor, *shape: int) -> Tensor:
    """Room for scores and partial sums: in float32 at least."""
    return like.new_empty(shape, dtype=torch.promote_types(like.dtype, torch.float32))


@torch.library.custom_op("memnets::content_address", mutates_args=())
def content_address(
    memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor | None = None, similarity: str = "cosine"
) -> Tensor:
    """See memnets.ops.content_address."""
    return _address(memory, key, strength, mask, similarity, None)


@torch.library.custom_op("memnets::content_read", mutates_args=())
def content_read(
    memory: Tensor, key: Tensor, strength: Tensor, mask: Tensor | None = None, similarity: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """See memnets.ops.content_address."""
    reads = memory.new_empty(key.shape)
    return reads, _address(memory, key, strength, mask, similarity, reads)


@content_address.register_fake
def _(memory: Tensor, key: Tensor, *_: Any) -> Tensor:
    return memory.new_empty(*key.shape[:2], memory.shape[1])


@content_read.register_fake
def _(memory: Tensor, key: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return memory.new_empty(key.shape), memory.new_empty(*key.shape[:2], memory.shape[1])


@torch.library.custom_op("memnets::content_read_backward", mutates_args=())
def content_read_backward(
    d_reads: Tensor | None,
    d_weights: Tensor,
    memory: Tensor,
    key: Tensor,
    strength: Tensor,
    mask: Tensor | None,
    reads: Tensor | None,
    weights: Tensor,
    similarity: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of memory, key and strength; without `reads`, of the weights alone."""
    tensors = (memory, key, strength, mask, weights, d_weights, reads, d_reads)
    given = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    (batch, slots, word), heads = memory.shape, key.shape[1]
    blocks, constants = _plan(memory, key, similarity, 1)
    means, block = _wide(memory, batch, heads), block_slots(slots, 1, LARGEST)
    tiles = {"BLOCK": block, "TYPE": constants["TYPE"], "num_warps": _warps(block)}
    launch(_mean, (batch * heads,), *given[4:6], means, slots, **tiles)
    d_memory = memory.new_empty(memory.shape)
    parts = _wide(memory, batch, heads, blocks, word), _wide(memory, batch, heads, blocks)
    launch(_backward, (batch, blocks), *given, means, d_memory, *parts, slots, word, **constants)
    d_key, d_strength = (part.sum(2).to(memory.dtype) for part in parts)
    return d_memory, d_key, d_strength


@content_read_backward.register_fake
def _(
    d_reads: Tensor | None, d_weights: Tensor, memory: Tensor, key: Tensor, strength: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    return memory.new_empty(memory.shape), key.new_empty(key.shape), strength.new_empty(strength.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.similarity = inputs
    reads, weights = (None, output) if isinstance(output, Tensor) else output
    ctx.save_for_backward(*tensors, reads, weights)


def _gradient(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    d_reads, d_weights = (None, *gradients)[-2:]
    found = torch.ops.memnets.content_read_backward(d_reads, d_weights, *ctx.saved_tensors, ctx.similarity)
    return *found, None, None


content_address.register_autograd(_gradient, setup_context=_save)
content_read.register_autograd(_gradient, setup_context=_save)
