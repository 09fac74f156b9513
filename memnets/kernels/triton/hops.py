"""The hops of Memory Networks over slots that are there: a program for each question, forward and backward.

A program goes through its slots once per hop; lanes of a block have a softmax each, put together at the hop's end.
Backward, what reaches a slot is an outer product per hop: programs leave its factors. Nothing is added up atomically:
results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from einops import rearrange
from torch import Tensor

from memnets.kernels.triton.launch import block_slots, ceil_power, compute_type, launch

NOTHING = tl.constexpr(float("-inf"))
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _table(slots, row, table, s, e, is_told, sentences, tables, size, TYPE: tl.constexpr):
    """A block of slots as a table has them; 0 where nothing is told."""
    at = ((row * sentences + s[:, None]) * tables + table) * size + e[None, :]
    return tl.load(slots + at, mask=is_told[:, None] & (e < size)[None, :], other=0.0).to(TYPE)


@triton.jit
def _block(slots, told, query, row, hop, start, e, sentences, tables, size, ADJACENT: tl.constexpr, SCALE: tl.constexpr,
           BLOCK: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    """Slots from `start` on as a hop sees them: which, whether there are, whether told; keys, values and products."""
    key, value = hop, hop + 1
    if not ADJACENT:
        key, value = 0, 1
    s = start + tl.arange(0, BLOCK)
    here = s < sentences
    is_told = here & (tl.load(told + row * sentences + s, mask=here, other=0) != 0)
    keys = _table(slots, row, key, s, e, is_told, sentences, tables, size, TYPE)
    values = _table(slots, row, value, s, e, is_told, sentences, tables, size, TYPE)
    return s, here, is_told, keys, values, SCALE * tl.sum(keys * query[None, :], 1)


@triton.jit
def _update(update, replica, e, size, SIZE: tl.constexpr, TYPE: tl.constexpr):
    out, inside = tl.arange(0, SIZE), e < size
    at = (replica * size + out[:, None]) * size + e[None, :]
    return tl.load(update + at, mask=(out < size)[:, None] & inside[None, :], other=0.0).to(TYPE)


@triton.jit
def _forward(slots, first, told, update, linear, queries, reads, log_sums, batch, sentences, tables, size,
             HOPS: tl.constexpr, ADJACENT: tl.constexpr, RELU: tl.constexpr, SCALE: tl.constexpr, EMPTY: tl.constexpr,
             BLOCK: tl.constexpr, SIZE: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    row, e = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    inside, replica = e < size, row // batch
    query = tl.load(first + row * size + e, mask=inside, other=0.0).to(TYPE)
    tl.store(queries + row * (HOPS + 1) * size + e, query, mask=inside)
    for hop in range(HOPS):
        tops, totals = tl.full((BLOCK,), NOTHING, TYPE), tl.zeros((BLOCK,), TYPE)
        parts, plain = tl.zeros((BLOCK, SIZE), TYPE), tl.zeros((BLOCK, SIZE), TYPE)
        for start in range(0, sentences, BLOCK):
            _, here, is_told, _, values, product = _block(
                slots, told, query, row, hop, start, e, sentences, tables, size, ADJACENT, SCALE, BLOCK, TYPE
            )
            among = is_told
            if EMPTY:
                among = here
            score = tl.where(among, product, NOTHING)
            top = tl.maximum(tops, score)
            shift = tl.where(top == NOTHING, 0.0, top)
            before, now = tl.exp(tops - shift), tl.exp(score - shift)
            tops, totals = top, totals * before + now
            parts = parts * before[:, None] + now[:, None] * values
            if linear is not None:
                plain += product[:, None] * values
        top = tl.max(tops, 0)
        top = tl.where(top == NOTHING, 0.0, top)
        share = tl.exp(tops - top)
        total = tl.sum(share * totals, 0)
        some = tl.where(total == 0.0, 1.0, total)
        read = tl.sum(share[:, None] * parts, 0) / some
        if linear is not None:
            read = tl.where(tl.load(linear + replica) != 0, tl.sum(plain, 0), read)
        tl.store(reads + (row * HOPS + hop) * size + e, read, mask=inside)
        tl.store(log_sums + row * HOPS + hop, tl.where(total == 0.0, INFINITY, top + tl.log(some)))
        if update is not None:
            query = tl.sum(_update(update, replica, e, size, SIZE, TYPE) * query[None, :], 1)
        query += read
        if RELU:
            query = tl.where(query > 0.0, query, 0.0)
        tl.store(queries + (row * (HOPS + 1) + hop + 1) * size + e, query, mask=inside)


@triton.jit
def _backward(slots, d_last, told, update, linear, queries, reads, log_sums, d_first, d_hops, weights, d_scores,
              batch, sentences, tables, size, HOPS: tl.constexpr, ADJACENT: tl.constexpr, RELU: tl.constexpr,
              SCALE: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    row, e = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    inside, replica = e < size, row // batch
    d_query = tl.load(d_last + row * size + e, mask=inside, other=0.0).to(TYPE)
    for back in range(HOPS):
        hop = HOPS - 1 - back
        at = (row * (HOPS + 1) + hop) * size + e
        query = tl.load(queries + at, mask=inside, other=0.0)
        if RELU:
            d_query = tl.where(tl.load(queries + at + size, mask=inside, other=0.0) > 0.0, d_query, 0.0)
        tl.store(d_hops + (row * HOPS + hop) * size + e, d_query, mask=inside)
        read = tl.load(reads + (row * HOPS + hop) * size + e, mask=inside, other=0.0)
        log_sum = tl.load(log_sums + row * HOPS + hop)
        parts = tl.zeros((BLOCK, SIZE), TYPE)
        for start in range(0, sentences, BLOCK):
            s, here, is_told, keys, values, product = _block(
                slots, told, query, row, hop, start, e, sentences, tables, size, ADJACENT, SCALE, BLOCK, TYPE
            )
            weight = tl.where(is_told, tl.exp(product - log_sum), 0.0)
            # Subtracted before the product: what rounding leaves is then small for the slots with most of the weight.
            d_score = weight * tl.sum((values - read[None, :]) * d_query[None, :], 1)
            if linear is not None:
                is_linear = tl.load(linear + replica) != 0
                weight = tl.where(is_linear, product, weight)
                d_score = tl.where(is_linear, tl.sum(values * d_query[None, :], 1), d_score)
            tl.store(weights + (row * HOPS + hop) * sentences + s, weight, mask=here)
            tl.store(d_scores + (row * HOPS + hop) * sentences + s, SCALE * d_score, mask=here)
            parts += d_score[:, None] * keys
        if update is not None:
            d_query = tl.sum(_update(update, replica, e, size, SIZE, TYPE) * d_query[:, None], 0)
        d_query += SCALE * tl.sum(parts, 0)
    tl.store(d_first + row * size + e, d_query, mask=inside)


@torch.library.custom_op("memnets::hops_triton", mutates_args=())
def hops_triton(
    slots: Tensor,
    query: Tensor,
    told: Tensor,
    update: Tensor | None,
    linear: Tensor | None,
    hops: int,
    adjacent: bool,
    relu: bool,
    scale: float,
    attend_empty: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries before each hop and after the last, of which that alone has a gradient; reads, and sums of exponentials.

    Rows are those of all replicas: slots [rows sentences tables embedding], update [replicas embedding embedding]. The
    results are [rows hops+1 embedding], [rows hops embedding] and, as logarithms, [rows hops].
    """
    slots, query, told = slots.contiguous(), query.contiguous(), told.contiguous()
    rows, size = query.shape
    queries, reads = slots.new_empty(rows, hops + 1, size), slots.new_empty(rows, hops, size)
    log_sums = slots.new_empty(rows, hops)
    given = (slots, query, told, _contiguous(update), _contiguous(linear))
    constants: dict[str, Any] = {
        "HOPS": hops,
        "ADJACENT": adjacent,
        "RELU": relu,
        "SCALE": scale,
        "EMPTY": attend_empty,
    }
    sizes = _sizes(slots, update, linear)
    launch(_forward, (rows,), *given, queries, reads, log_sums, *sizes, **constants, **_tile(slots))
    return queries, reads, log_sums


@hops_triton.register_fake
def _(slots: Tensor, query: Tensor, told: Tensor, update: Tensor | None, linear: Tensor | None, hops: int,
      *_: Any) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, size = query.shape
    return slots.new_empty(rows, hops + 1, size), slots.new_empty(rows, hops, size), slots.new_empty(rows, hops)


@torch.library.custom_op("memnets::hops_triton_backward", mutates_args=())
def hops_triton_backward(
    d_query: Tensor,
    slots: Tensor,
    told: Tensor,
    update: Tensor | None,
    linear: Tensor | None,
    queries: Tensor,
    reads: Tensor,
    log_sums: Tensor,
    adjacent: bool,
    relu: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of slots, first query and update (empty if there is none), from that of the last query."""
    slots, told = slots.contiguous(), told.contiguous()
    (rows, sentences, _, size), hops = slots.shape, reads.shape[1]
    d_first, d_hops = slots.new_empty(rows, size), torch.empty_like(reads)
    weights, d_scores = slots.new_empty(rows, hops, sentences), slots.new_empty(rows, hops, sentences)
    given = (slots, d_query.contiguous(), told, _contiguous(update), _contiguous(linear), queries, reads, log_sums)
    constants: dict[str, Any] = {"HOPS": hops, "ADJACENT": adjacent, "RELU": relu, "SCALE": scale}
    sizes = _sizes(slots, update, linear)
    launch(_backward, (rows,), *given, d_first, d_hops, weights, d_scores, *sizes, **constants, **_tile(slots))
    with torch.autocast(slots.device.type, enabled=False):
        d_slots, d_update = _products(d_scores, weights, queries[:, :-1], d_hops, adjacent, update)
    return d_slots, d_first, d_update


def _products(
    d_scores: Tensor, weights: Tensor, asked: Tensor, d_hops: Tensor, adjacent: bool, update: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of slots and update, of what the hops leave: [rows hops sentences] and [rows hops embedding]."""
    keys, values = (d_scores, asked), (weights, d_hops)
    if adjacent:
        d_keys, d_values = (torch.einsum("rhs,rhe->rshe", *pair) for pair in (keys, values))
        d_slots = F.pad(d_keys, (0, 0, 0, 1)) + F.pad(d_values, (0, 0, 1, 0))
    else:
        d_slots = torch.stack([torch.einsum("rhs,rhe->rse", *pair) for pair in (keys, values)], 2)
    if update is None:
        return d_slots.contiguous(), d_slots.new_empty(0)
    d_hops, asked = (rearrange(each, "(r b) h e -> r (b h) e", r=len(update)) for each in (d_hops, asked))
    return d_slots.contiguous(), torch.einsum("rno,rni->roi", d_hops, asked).contiguous()


@hops_triton_backward.register_fake
def _(d_query: Tensor, slots: Tensor, told: Tensor, update: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    d_update = slots.new_empty(0 if update is None else update.shape)
    return slots.new_empty(slots.shape), slots.new_empty(d_query.shape), d_update


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _sizes(slots: Tensor, update: Tensor | None, linear: Tensor | None) -> tuple[int, ...]:
    """Rows per replica, as far as that counts; sentences, tables, embedding."""
    replicas = max([1, *(len(each) for each in (update, linear) if each is not None)])
    return len(slots) // replicas, *slots.shape[1:]


def _tile(slots: Tensor) -> dict[str, Any]:
    """Of a program: the update it holds from hop to hop is most of what it needs registers for."""
    _, sentences, _, size = slots.shape
    constants = {"BLOCK": block_slots(sentences, size), "SIZE": ceil_power(size), "TYPE": compute_type(slots)}
    return constants | {"num_warps": 8, "max_registers": 128}


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    slots, _query, told, update, linear, _hops, adjacent, relu, scale, _attend_empty = inputs
    ctx.save_for_backward(slots, told, update, linear, *output)
    ctx.options = adjacent, relu, scale


def _gradient(ctx: Any, d_queries: Tensor, _reads: Tensor, _log_sums: Tensor) -> tuple[Tensor | None, ...]:
    d_slots, d_query, d_update = torch.ops.memnets.hops_triton_backward(
        d_queries[:, -1], *ctx.saved_tensors, *ctx.options
    )
    return d_slots, d_query, None, d_update if d_update.numel() else None, *[None] * 6


hops_triton.register_autograd(_gradient, setup_context=_save)
