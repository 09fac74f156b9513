"""Interpolation, circular shift and sharpening in one launch: each program has one head, and goes through its slots.

A shift gathers what it needs of the neighbours from the inputs, interpolated again: nothing waits for another program.
Backward, likewise, one launch makes the gradients of the shifted weights and of what a head has one of, a second one
gathers the former back to the inputs. Parts that are None are compiled out. Results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memnets.kernels.triton.launch import block_slots, ceil_power, compute_type, launch

EPSILON = tl.constexpr(1e-16)
LOWEST = tl.constexpr(-3e38)
"""Below every score of a slot."""

LARGEST = 2
"""Tiles of slots that a program has at a time, at most: four numbers a thread, more spill."""


@triton.jit
def _number(pointer, head, TYPE: tl.constexpr):
    """A head's gate or sharpening; 1 where the part is left out."""
    if pointer is None:
        return tl.full((), 1.0, TYPE)
    else:
        return tl.load(pointer + head).to(TYPE)


@triton.jit
def _wrap(n, slots):
    """Slots at most once around from those there are."""
    n = n % slots
    return tl.where(n < 0, n + slots, n)


@triton.jit
def _mixed(weights, previous, gate, head, n, here, slots, TYPE: tl.constexpr):
    """Weights before the shift, and their derivatives by the gate."""
    mixed = tl.load(weights + head * slots + n, mask=here, other=0.0).to(TYPE)
    change = tl.zeros_like(mixed)
    if previous is not None:
        before = tl.load(previous + head * slots + n, mask=here, other=0.0).to(TYPE)
        change = mixed - before
        mixed = before + gate * change
    return mixed, change


@triton.jit
def _shifted(weights, previous, gate, shift, head, n, here, slots, WIDTH: tl.constexpr, TYPE: tl.constexpr):
    """Weights after the shift, and their derivatives by the gate."""
    if shift is None:
        return _mixed(weights, previous, gate, head, n, here, slots, TYPE)
    else:
        shifted, change = tl.zeros(n.shape, TYPE), tl.zeros(n.shape, TYPE)
        for j in range(WIDTH):
            share = tl.load(shift + head * WIDTH + j).to(TYPE)
            from_n = _wrap(n + (WIDTH // 2 - j), slots)
            mixed, by_gate = _mixed(weights, previous, gate, head, from_n, here, slots, TYPE)
            shifted += share * mixed
            change += share * by_gate
        return shifted, change


@triton.jit
def _log(shifted):
    return tl.log(tl.where(shifted < 0.0, 0.0, shifted) + EPSILON)  # unlike a maximum's, a NaN stays one


@triton.jit
def _softmax(weights, previous, gate, shift, power, d_after, head, slots, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
             TYPE: tl.constexpr):  # fmt: skip
    """Highest score, sum of exponentials and their mean gradient: every lane by itself at first."""
    tops, totals, means = tl.full((BLOCK,), LOWEST, TYPE), tl.zeros((BLOCK,), TYPE), tl.zeros((BLOCK,), TYPE)
    for first in range(0, slots, BLOCK):
        n = first + tl.arange(0, BLOCK)
        here = n < slots
        shifted, _change = _shifted(weights, previous, gate, shift, head, n, here, slots, WIDTH, TYPE)
        score = tl.where(here, power * _log(shifted), LOWEST)
        higher = tl.maximum(tops, score)
        kept, risen = tl.exp(tops - higher), tl.where(here, tl.exp(score - higher), 0.0)
        tops, totals = higher, totals * kept + risen
        if d_after is not None:
            means = means * kept + risen * tl.load(d_after + head * slots + n, mask=here, other=0.0).to(TYPE)
    top = tl.max(tops, 0)
    kept = tl.exp(tops - top)
    total = tl.sum(totals * kept, 0)
    return top, total, tl.sum(means * kept, 0) / total


@triton.jit
def _forward(weights, previous, gate, shift, sharpening, after, slots, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
             TYPE: tl.constexpr):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    share, power = _number(gate, head, TYPE), _number(sharpening, head, TYPE)
    if sharpening is not None:
        top, total, _mean = _softmax(weights, previous, share, shift, power, None, head, slots, WIDTH, BLOCK, TYPE)
    for first in range(0, slots, BLOCK):
        n = first + tl.arange(0, BLOCK)
        here = n < slots
        result, _change = _shifted(weights, previous, share, shift, head, n, here, slots, WIDTH, TYPE)
        if sharpening is not None:
            result = tl.exp(power * _log(result) - top) / total
        tl.store(after + head * slots + n, result, mask=here)


@triton.jit
def _backward(weights, previous, gate, shift, sharpening, d_after, d_shifted, d_gate, d_shift, d_sharpening, slots,
              WIDTH: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr, TYPE: tl.constexpr):  # fmt: skip
    """Gradients of the shifted weights (if they are sharpened: else they are given), of gate, shift and sharpening."""
    head, tap = tl.program_id(0).to(tl.int64), tl.arange(0, TAPS)
    share, power = _number(gate, head, TYPE), _number(sharpening, head, TYPE)
    by_gate, by_power, by_tap = tl.zeros((BLOCK,), TYPE), tl.zeros((BLOCK,), TYPE), tl.zeros((TAPS,), TYPE)
    if sharpening is not None:
        top, total, mean = _softmax(weights, previous, share, shift, power, d_after, head, slots, WIDTH, BLOCK, TYPE)
    for first in range(0, slots, BLOCK):
        n = first + tl.arange(0, BLOCK)
        here = n < slots
        d_here = tl.load(d_after + head * slots + n, mask=here, other=0.0).to(TYPE)
        shifted, change = _shifted(weights, previous, share, shift, head, n, here, slots, WIDTH, TYPE)
        if sharpening is not None:
            log = _log(shifted)
            d_score = tl.where(here, tl.exp(power * log - top) / total * (d_here - mean), 0.0)
            by_power += d_score * log
            d_here = tl.where(shifted < 0.0, 0.0, d_score * power / (shifted + EPSILON))
            tl.store(d_shifted + head * slots + n, d_here, mask=here)
        by_gate += d_here * change
        if shift is not None:
            for j in range(WIDTH):
                from_n = _wrap(n + (WIDTH // 2 - j), slots)
                mixed, _change = _mixed(weights, previous, share, head, from_n, here, slots, TYPE)
                by_tap += tl.where(tap == j, tl.sum(d_here * mixed, 0), 0.0)
    if gate is not None:
        tl.store(d_gate + head, tl.sum(by_gate, 0))
    if shift is not None:
        tl.store(d_shift + head * WIDTH + tap, by_tap, mask=tap < WIDTH)
    if sharpening is not None:
        tl.store(d_sharpening + head, tl.sum(by_power, 0))


@triton.jit
def _unshift(d_shifted, gate, shift, d_weights, d_previous, slots, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
             TYPE: tl.constexpr):  # fmt: skip
    """Gradients of the weights that came in, from those of the shifted ones."""
    head = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = n < slots
    if shift is None:
        d_mixed = tl.load(d_shifted + head * slots + n, mask=here, other=0.0).to(TYPE)
    else:
        d_mixed = tl.zeros((BLOCK,), TYPE)
        for j in range(WIDTH):
            moved = tl.load(d_shifted + head * slots + _wrap(n + (j - WIDTH // 2), slots), mask=here, other=0.0)
            d_mixed += tl.load(shift + head * WIDTH + j).to(TYPE) * moved.to(TYPE)
    if d_previous is not None:
        share = _number(gate, head, TYPE)
        tl.store(d_previous + head * slots + n, (1.0 - share) * d_mixed, mask=here)
        d_mixed *= share
    tl.store(d_weights + head * slots + n, d_mixed, mask=here)


def _given(
    content_weights: Tensor | None, previous_weights: Tensor | None, gate: Tensor | None, *parts: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The weights that come in; and all that kernels are given: these, those that a gate mixes in, and the parts."""
    weights = previous_weights if content_weights is None else content_weights
    assert weights is not None, "memnets.ops refuses this"
    tensors = (weights, None if gate is None else previous_weights, gate, *parts)
    return weights, [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _plan(weights: Tensor, shift: Tensor | None) -> tuple[int, int, dict[str, Any]]:
    """Heads of the whole batch, slots, and the constants all kernels are compiled with."""
    batch, heads, slots = weights.shape
    width = 0 if shift is None else shift.shape[-1]
    block = block_slots(slots, 1, LARGEST)
    constants = {"WIDTH": width, "BLOCK": block, "TYPE": compute_type(weights), "num_warps": max(1, block // 128)}
    return batch * heads, slots, constants


@torch.library.custom_op("memnets::shift_sharpen", mutates_args=())
def shift_sharpen(
    content_weights: Tensor | None,
    previous_weights: Tensor | None,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    sharpening: Tensor | None = None,
) -> Tensor:
    """See memnets.ops.shift_sharpen."""
    weights, given = _given(content_weights, previous_weights, gate, shift, sharpening)
    heads, slots, constants = _plan(weights, shift)
    after = weights.new_empty(weights.shape)
    launch(_forward, (heads,), *given, after, slots, **constants)
    return after


@shift_sharpen.register_fake
def _(*tensors: Tensor | None) -> Tensor:
    weights, _ = _given(*tensors)
    return weights.new_empty(weights.shape)


@torch.library.custom_op("memnets::shift_sharpen_backward", mutates_args=())
def shift_sharpen_backward(
    d_after: Tensor,
    content_weights: Tensor | None,
    previous_weights: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    sharpening: Tensor | None,
) -> list[Tensor]:
    """Gradients of all that is used, in turn."""
    weights, given = _given(content_weights, previous_weights, gate, shift, sharpening)
    heads, slots, constants = _plan(weights, shift)
    d_after = d_shifted = d_after.contiguous()
    if sharpening is not None:
        d_shifted = torch.empty_like(d_after, dtype=torch.promote_types(weights.dtype, torch.float32))
    found = [None if tensor is None else tensor.new_empty(tensor.shape) for tensor in given]
    taps = ceil_power(constants["WIDTH"])
    launch(_backward, (heads,), *given, d_after, d_shifted, *found[2:], slots, TAPS=taps, **constants)
    grid = heads, triton.cdiv(slots, constants["BLOCK"])
    launch(_unshift, grid, d_shifted, *given[2:4], *found[:2], slots, **constants)
    return [gradient for gradient in found if gradient is not None]


@shift_sharpen_backward.register_fake
def _(d_after: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in _given(*tensors)[1] if tensor is not None]


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, d_after: Tensor) -> tuple[Tensor | None, ...]:
    content, previous, gate, *parts = ctx.saved_tensors
    found = iter(torch.ops.memnets.shift_sharpen_backward(d_after, *ctx.saved_tensors))
    used = (content, previous if content is None or gate is not None else None, gate, *parts)
    return tuple(None if tensor is None else next(found) for tensor in used)


shift_sharpen.register_autograd(_gradient, setup_context=_save)
