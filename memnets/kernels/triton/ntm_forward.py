"""The sequence kernel's forward pass: a program runs one sequence, its memory a tile on the chip from first to last step."""

from __future__ import annotations

import triton
import triton.language as tl

from memnets.kernels.triton.ntm_heads import (
    inverse_norms,
    key_and_similarity,
    sharpening_base,
    shifted,
    sigmoid,
    softmax,
    softplus,
    strengthened,
    tanh,
    tile,
    times,
)


@triton.jit
def forward(projected, recurrence, interface, interface_bias, lengths, features, gates, cells, emitted, interpolated,
            weights, memories, memory, time, P: tl.constexpr):  # fmt: skip
    """Row 0 of features, cells and weights is the initial state; `memory` passes from the first step to the last."""
    b = tl.program_id(0).to(tl.int64)
    n, w, here, inside, at, both = tile(P)
    rows = tl.load(memory + b * P.size + at, mask=both, other=0.0)
    for t in range(tl.load(lengths + b).to(tl.int32)):
        step = b * time + t
        kept = step if P.keep else b
        before, after = step + b, step + b + 1
        if P.keep:
            tl.store(memories + step * P.size + at, rows, mask=both)
        _control(projected + step * P.gates, recurrence, features + before * P.features, cells + before * P.hidden,
                 features + after * P.features, cells + after * P.hidden, gates + kept * P.gates, P)  # fmt: skip
        tl.debug_barrier()
        sent, ring = emitted + kept * P.interface, interpolated + kept * P.heads * P.slots
        _emit(interface, interface_bias, features + after * P.features, sent, P)
        tl.debug_barrier()
        previous, used = weights + before * P.heads * P.slots, weights + after * P.heads * P.slots
        _interpolate(rows, sent, previous, ring, n, w, here, inside, P)
        tl.debug_barrier()
        _shift_and_sharpen(sent, ring, used, n, here, P)
        tl.debug_barrier()
        rows = _read_and_write(rows, sent, used, features + after * P.features + P.hidden, n, w, here, inside, P)
        tl.debug_barrier()
    tl.store(memory + b * P.size + at, rows, mask=both)


@triton.jit
def _control(projected, recurrence, seen, cell, output, next_cell, gates, P: tl.constexpr):
    """output = o tanh(cell'), cell' = f cell + i g, gates i f g o; or tanh of one layer."""
    for first in range(0, P.hidden, P.rows):
        unit = first + tl.arange(0, P.rows)
        present = unit < P.hidden
        if P.lstm:
            insert = sigmoid(_sums(projected, recurrence, seen, unit, present, 0, P))
            forget = sigmoid(_sums(projected, recurrence, seen, unit, present, 1, P))
            candidate = tanh(_sums(projected, recurrence, seen, unit, present, 2, P))
            emit = sigmoid(_sums(projected, recurrence, seen, unit, present, 3, P))
            cells = forget * tl.load(cell + unit, mask=present, other=0.0) + insert * candidate
            tl.store(gates + unit, insert, mask=present)
            tl.store(gates + P.hidden + unit, forget, mask=present)
            tl.store(gates + 2 * P.hidden + unit, candidate, mask=present)
            tl.store(gates + 3 * P.hidden + unit, emit, mask=present)
            tl.store(next_cell + unit, cells, mask=present)
            tl.store(output + unit, emit * tanh(cells), mask=present)
        else:
            tl.store(output + unit, tanh(_sums(projected, recurrence, seen, unit, present, 0, P)), mask=present)


@triton.jit
def _sums(projected, recurrence, seen, unit, present, gate: tl.constexpr, P: tl.constexpr):
    row = gate * P.hidden + unit
    return tl.load(projected + row, mask=present, other=0.0) + times(recurrence, seen, row, present, P.features, P)


@triton.jit
def _emit(interface, interface_bias, output, sent, P: tl.constexpr):
    for first in range(0, P.interface, P.rows):
        i = first + tl.arange(0, P.rows)
        present = i < P.interface
        raw = tl.load(interface_bias + i, mask=present, other=0.0) + times(interface, output, i, present, P.hidden, P)
        tl.store(sent + i, _activated(raw, i, P), mask=present)


@triton.jit
def _activated(raw, i, P: tl.constexpr):
    """Keys and adds tanh, gates and erases sigmoid, strengths softplus, sharpenings 1 + softplus; shifts as they are."""
    heads, erase = i < P.erase_at, (i >= P.erase_at) & (i < P.add_at)
    part = i % (P.head if P.head else 1)
    result = tl.where((heads & (part < P.strength_at)) | (i >= P.add_at), tanh(raw), raw)
    result = tl.where(erase | (heads & (part >= P.gate_at) & (part < P.shift_at)), sigmoid(raw), result)
    result = tl.where(heads & (part >= P.strength_at) & (part < P.gate_at), softplus(raw), result)
    return tl.where(heads & (part >= P.sharpening_at), 1.0 + softplus(raw), result)


@triton.jit
def _interpolate(rows, sent, previous, ring, n, w, here, inside, P: tl.constexpr):
    """Content and previous weights, interpolated (equations 5 to 7), or the one that is there."""
    inverse = inverse_norms(rows, P)
    for h in range(P.heads):
        head = sent + h * P.head
        weight = tl.load(previous + h * P.slots + n, mask=here, other=0.0)
        if P.key:
            _, _, similarity = key_and_similarity(rows, inverse, head, w, inside, P)
            content = softmax(strengthened(similarity, head, P), here)
            weight = weight + tl.load(head + P.gate_at) * (content - weight) if P.gate else content
        tl.store(ring + h * P.slots + n, weight, mask=here)


@triton.jit
def _shift_and_sharpen(sent, ring, used, n, here, P: tl.constexpr):
    """Equations 8 and 9; sharpening as a softmax of logarithms."""
    for h in range(P.heads):
        head = sent + h * P.head
        weight = shifted(ring + h * P.slots, head, n, here, P)
        if P.sharpening:
            weight = softmax(tl.load(head + P.sharpening_at) * tl.log(sharpening_base(weight, P)), here)
        tl.store(used + h * P.slots + n, weight, mask=here)


@triton.jit
def _read_and_write(rows, sent, used, reads, n, w, here, inside, P: tl.constexpr):
    """Read vectors (equation 2), and the memory after all have erased and then all have added (3 and 4)."""
    for h in range(P.read_heads):
        weight = tl.load(used + h * P.slots + n, mask=here, other=0.0)
        tl.store(reads + h * P.word + w, tl.sum(weight[:, None] * rows, 0), mask=inside)
    for h in range(P.write_heads):
        weight = tl.load(used + (P.read_heads + h) * P.slots + n, mask=here, other=0.0)
        rows *= 1.0 - weight[:, None] * tl.load(sent + P.erase_at + h * P.word + w, mask=inside, other=0.0)[None, :]
    for h in range(P.write_heads):
        weight = tl.load(used + (P.read_heads + h) * P.slots + n, mask=here, other=0.0)
        rows += weight[:, None] * tl.load(sent + P.add_at + h * P.word + w, mask=inside, other=0.0)[None, :]
    return rows
