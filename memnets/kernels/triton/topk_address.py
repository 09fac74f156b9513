"""The k best slots of each query in two stages: the best of every block of slots, then the best of those.

One order rules both: higher scores first, of equal ones the lower slot. The next best is the first after the last one
chosen, so that nothing needs to be marked as taken, and no slot comes twice, not even among hidden ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from einops import rearrange
from torch import Tensor

from memnets.kernels.triton.launch import ceil_power, compute_type, launch
from memnets.kernels.triton.rows import dot_rows, scatter_rows, sum_rows

QUERIES = 16
"""Queries that share a block of keys: what a matrix product takes at least."""
BLOCK = 128
CHUNK = 16
CANDIDATES = 1024


@triton.jit
def _next(scores, slots, score, slot, NONE: tl.constexpr):
    """Along the last axis the first score and slot after the given ones, -inf and NONE where there are none."""
    left = (scores < score[:, None]) | ((scores == score[:, None]) & (slots > slot[:, None]))
    score = tl.max(tl.where(left, scores, float("-inf")), 1)
    return score, tl.min(tl.where(left & (scores == score[:, None]), slots, NONE), 1)


@triton.jit
def _best_of_blocks(query, keys, stamps, oldest, newest, decay, best_scores, best_slots, heads, time, moments, slots,
                    word, keep, QUERIES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
                    TYPE: tl.constexpr):  # fmt: skip
    # Programs that share a block of keys lie side by side: the keys come from the memory once, then from the cache.
    tiles, blocks = tl.cdiv(time, QUERIES), tl.cdiv(slots, BLOCK)
    tile, block = tl.program_id(0) % tiles, tl.program_id(0) // tiles % blocks
    group = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    t, n = tile * QUERIES + tl.arange(0, QUERIES), block * BLOCK + tl.arange(0, BLOCK)
    scores = tl.zeros((QUERIES, BLOCK), TYPE)
    for start in range(0, word, CHUNK):
        w = start + tl.arange(0, CHUNK)
        asked, held = (t < time)[:, None] & (w < word)[None, :], (n < slots)[None, :] & (w < word)[:, None]
        left = tl.load(query + (group * time + t)[:, None] * word + w[None, :], mask=asked, other=0.0).to(TYPE)
        right = tl.load(keys + (group * slots + n)[None, :] * word + w[:, None], mask=held, other=0.0).to(TYPE)
        scores = tl.dot(left, right, scores, input_precision="ieee", out_dtype=TYPE)
    seen = (t < time)[:, None] & (n < slots)[None, :]
    if stamps is not None:
        row = group // heads
        stamp = tl.load(stamps + row * slots + n, mask=n < slots, other=0)[None, :]
        moment = row * moments + t % moments
        first = tl.load(oldest + moment, mask=t < time, other=0)[:, None]
        last = tl.load(newest + moment, mask=t < time, other=0)[:, None]
        seen = seen & (stamp >= first) & (stamp <= last)
        if decay is not None:
            head = group % heads * (time // moments) + t // moments
            loss = tl.load(decay + head, mask=t < time, other=0.0).to(TYPE)
            scores -= loss[:, None] * (last - stamp).to(TYPE)
    scores = tl.where(scores == scores, scores, float("inf"))  # NaN comes first, as in torch.sort
    scores = tl.where(seen, scores, float("-inf"))
    score, slot = tl.full((QUERIES,), float("inf"), TYPE), tl.full((QUERIES,), -1, tl.int32)
    for place in range(keep):
        score, slot = _next(scores, n[None, :], score, slot, 2**31 - 1)
        at = ((group * time + t) * blocks + block) * keep + place
        tl.store(best_scores + at, score, mask=t < time)
        tl.store(best_slots + at, slot, mask=t < time)


@triton.jit
def _best_of_all(scores, slots, best_scores, best_slots, count, k, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    score, slot = tl.full((1,), float("inf"), TYPE), tl.full((1,), -1, tl.int64)
    for place in range(k):
        last_score, last_slot = score, slot
        score, slot = tl.full((1,), float("-inf"), TYPE), tl.full((1,), 2**63 - 1, tl.int64)
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)[None, :]
            there = tl.load(scores + row * count + at, mask=at < count, other=float("-inf")).to(TYPE)
            there = tl.where(there == there, there, float("inf"))
            where = tl.load(slots + row * count + at, mask=at < count, other=0).to(tl.int64)
            where = tl.where(at < count, where, 2**63 - 1)  # behind all that there are
            rival, rival_slot = _next(there, where, last_score, last_slot, 2**63 - 1)
            better = (rival > score) | ((rival == score) & (rival_slot < slot))
            score, slot = tl.where(better, rival, score), tl.where(better, rival_slot, slot)
        one = tl.arange(0, 1)
        tl.store(best_scores + row * k + place + one, score)
        tl.store(best_slots + row * k + place + one, slot)


class Sight(NamedTuple):
    """What queries see: stamps [batch slots] from the oldest to the newest [batch moments]; what heads lose by age."""

    stamps: Tensor
    oldest: Tensor
    newest: Tensor
    decay: Tensor | None


def nearest(query: Tensor, keys: Tensor, sight: Sight | None, k: int) -> tuple[Tensor, Tensor]:
    """Scores, in float32 at least, and slots [groups time k], of query [groups time word], keys [groups slots word].

    Groups of a batch row lie side by side. Of a group's queries, number t stands at moment t % moments.
    """
    query, keys = query.contiguous(), keys.contiguous()
    (groups, time, word), slots = query.shape, keys.shape[1]
    heads, moments = (1, 1) if sight is None else (groups // sight.stamps.shape[0], sight.oldest.shape[1])
    blocks, keep = triton.cdiv(slots, BLOCK), min(k, BLOCK)
    scores = query.new_empty((groups, time, blocks * keep), dtype=torch.promote_types(query.dtype, torch.float32))
    found = torch.empty_like(scores, dtype=torch.int32)
    sizes = (heads, time, moments, slots, word, keep)
    constants = {"QUERIES": QUERIES, "BLOCK": BLOCK, "CHUNK": CHUNK, "TYPE": compute_type(query, keys)}
    grid = (groups * blocks * triton.cdiv(time, QUERIES),)
    seen = (None,) * 4 if sight is None else tuple(part if part is None else part.contiguous() for part in sight)
    launch(_best_of_blocks, grid, query, keys, *seen, scores, found, *sizes, **constants)
    return (scores, found.long()) if blocks == 1 else best(scores, found, k)


def best(scores: Tensor, slots: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of all scores in the last axis, best first, and their slots."""
    scores, slots = scores.contiguous(), slots.contiguous()
    *rows, count = scores.shape
    best_scores, best_slots = scores.new_empty((*rows, k)), slots.new_empty((*rows, k), dtype=torch.int64)
    constants = {"BLOCK": min(ceil_power(count), CANDIDATES), "TYPE": compute_type(scores)}
    grid = (best_scores.numel() // k,)
    launch(_best_of_all, grid, scores, slots, best_scores, best_slots, count, k, **constants)
    return best_scores, best_slots


def nearest_backward(d_scores: Tensor, query: Tensor, keys: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the scores for query and keys; only chosen keys have one."""
    d_keys = scatter_rows(d_scores, query, indices, keys.shape[1], keys.dtype)
    return sum_rows(keys, d_scores, indices).to(query.dtype), d_keys


@torch.library.custom_op("memnets::topk_address", mutates_args=())
def topk_address(
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    oldest: Tensor,
    newest: Tensor,
    k: int,
    decay: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See memnets.ops.topk_address."""
    scores, indices = nearest(_by_group(query, keys), keys.flatten(0, 1), Sight(stamps, oldest, newest, decay), k)
    shape = (*query.shape[:3], k)
    return scores.to(query.dtype).view(shape), indices.view(shape)


@topk_address.register_fake
def _(
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    oldest: Tensor,
    newest: Tensor,
    k: int,
    decay: Tensor | None,
) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:3], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)


def _by_group(of_heads: Tensor, keys: Tensor) -> Tensor:
    """What heads that share keys have [batch heads time *], in one row [groups time *] each."""
    return rearrange(of_heads, "b (g share) t w -> (b g) (share t) w", g=keys.shape[1])


@torch.library.custom_op("memnets::topk_address_backward", mutates_args=())
def topk_address_backward(
    d_scores: Tensor,
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    newest: Tensor,
    scores: Tensor,
    indices: Tensor,
    wants_decay: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, keys and decay, the last of no element unless it is wanted."""
    d_scores = d_scores.masked_fill(scores == -torch.inf, 0)
    grouped = (_by_group(each, keys) for each in (d_scores, query, indices))
    d_query, d_keys = nearest_backward(next(grouped), next(grouped), keys.flatten(0, 1), next(grouped))
    d_decay = _decay_gradient(d_scores, stamps, newest, indices) if wants_decay else query.new_empty(0)
    return d_query.view(query.shape), d_keys.view(keys.shape), d_decay


def _decay_gradient(d_scores: Tensor, stamps: Tensor, newest: Tensor, indices: Tensor) -> Tensor:
    at = stamps[..., None].double()  # whole numbers, exactly
    rows = indices.flatten(1, 2)
    found = dot_rows(at, at.new_ones(*rows.shape[:2], 1), rows, at.dtype).view(indices.shape)
    return -(d_scores * (newest[:, None, :, None] - found)).sum((0, 2, 3)).to(d_scores.dtype)


@topk_address_backward.register_fake
def _(
    d_scores: Tensor,
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    newest: Tensor,
    scores: Tensor,
    indices: Tensor,
    wants_decay: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = query.shape[1] if wants_decay else 0
    return query.new_empty(query.shape), keys.new_empty(keys.shape), query.new_empty(heads)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], inputs[4], *output)
    ctx.wants_decay = inputs[6] is not None and inputs[6].requires_grad


def _gradient(ctx: Any, d_scores: Tensor, d_indices: Tensor | None) -> tuple[Tensor | None, ...]:
    found = torch.ops.memnets.topk_address_backward(d_scores, *ctx.saved_tensors, ctx.wants_decay)
    return *found[:2], None, None, None, None, found[2] if ctx.wants_decay else None


topk_address.register_autograd(_gradient, setup_context=_save)
