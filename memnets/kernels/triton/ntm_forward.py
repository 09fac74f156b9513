"""The sequence kernel's forward pass: a program runs a sequence, its memory a tile on the chip from step to step."""

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
def forward(projected, recurrence, interface, interface_bias, lengths, features, trace, time, rows_kept,
            P: tl.constexpr):  # fmt: skip
    """The trace and the features begin with the initial state; of the trace, only the last rows are kept."""
    b = tl.program_id(0).to(tl.int64)
    n, w, here, inside, at, both = tile(P)
    trace += b * rows_kept * P.trace
    rows = tl.load(trace + at, mask=both, other=0.0)
    steps = tl.load(lengths + b).to(tl.int32)
    one = tl.minimum(steps, 1)
    for t in range(steps):
        now, then = trace + (t % rows_kept).to(tl.int64) * P.trace, trace + ((t + 1) % rows_kept).to(tl.int64) * P.trace
        step = b * time + t
        seen = features + (step + b) * P.features
        _control(projected + step * P.gates, recurrence, seen, now, then, one, P)
        tl.debug_barrier()
        _emit(interface, interface_bias, seen, now, one, P)
        tl.debug_barrier()
        _interpolate(rows, now, n, w, here, inside, one, P)
        tl.debug_barrier()
        _shift_and_sharpen(now, then, n, here, one, P)
        tl.debug_barrier()
        rows = _read_and_write(rows, now, then, seen, n, w, here, inside, one, P)
        tl.store(then + at, rows, mask=both)
        tl.debug_barrier()


@triton.jit
def _control(projected, recurrence, seen, now, then, one, P: tl.constexpr):
    """output = o tanh(cell'), cell' = f cell + i g, gates i f g o; or tanh of one layer."""
    for first in range(0, P.hidden * one, P.rows):
        unit = first + tl.arange(0, P.rows)
        present = unit < P.hidden
        if P.lstm:
            insert = sigmoid(_sums(projected, recurrence, seen, unit, present, 0, one, P))
            forget = sigmoid(_sums(projected, recurrence, seen, unit, present, 1, one, P))
            candidate = tanh(_sums(projected, recurrence, seen, unit, present, 2, one, P))
            emit = sigmoid(_sums(projected, recurrence, seen, unit, present, 3, one, P))
            cells = forget * tl.load(now + (P.cell_at + unit), mask=present, other=0.0) + insert * candidate
            tl.store(now + (P.gates_at + unit), insert, mask=present)
            tl.store(now + (P.gates_at + P.hidden + unit), forget, mask=present)
            tl.store(now + (P.gates_at + 2 * P.hidden + unit), candidate, mask=present)
            tl.store(now + (P.gates_at + 3 * P.hidden + unit), emit, mask=present)
            tl.store(then + (P.cell_at + unit), cells, mask=present)
            output = emit * tanh(cells)
        else:
            output = tanh(_sums(projected, recurrence, seen, unit, present, 0, one, P))
        tl.store(seen + (P.features + unit), output, mask=present)


@triton.jit
def _sums(projected, recurrence, seen, unit, present, gate: tl.constexpr, one, P: tl.constexpr):
    row = gate * P.hidden + unit
    return tl.load(projected + row, mask=present, other=0.0) + times(
        recurrence, seen, 0, row, present, P.features, one, P
    )


@triton.jit
def _emit(interface, interface_bias, seen, now, one, P: tl.constexpr):
    for first in range(0, P.interface * one, P.rows):
        i = first + tl.arange(0, P.rows)
        present = i < P.interface
        raw = tl.load(interface_bias + i, mask=present, other=0.0) + times(
            interface, seen, P.features, i, present, P.hidden, one, P
        )
        tl.store(now + (P.sent_at + i), _activated(raw, i, P), mask=present)


@triton.jit
def _activated(raw, i, P: tl.constexpr):
    """Keys, adds: tanh. Gates, erases: sigmoid. Strengths: softplus. Sharpenings: 1 + softplus. Shifts: as they are."""
    heads, erase = i < P.erase_at, (i >= P.erase_at) & (i < P.add_at)
    part = i % (P.head if P.head else 1)
    result = tl.where((heads & (part < P.strength_at)) | (i >= P.add_at), tanh(raw), raw)
    result = tl.where(erase | (heads & (part >= P.gate_at) & (part < P.shift_at)), sigmoid(raw), result)
    result = tl.where(heads & (part >= P.strength_at) & (part < P.gate_at), softplus(raw), result)
    return tl.where(heads & (part >= P.sharpening_at), 1.0 + softplus(raw), result)


@triton.jit
def _interpolate(rows, now, n, w, here, inside, one, P: tl.constexpr):
    """Content and previous weights, interpolated (equations 5 to 7), or the one that is there."""
    inverse = inverse_norms(rows, P)
    for h in range(P.heads * one):
        head = P.sent_at + h * P.head
        weight = tl.load(now + (P.weights_at + h * P.slots + n), mask=here, other=0.0)
        if P.key:
            _, _, similarity = key_and_similarity(rows, inverse, now, head, w, inside, P)
            content = softmax(strengthened(similarity, now, head, P), here)
            weight = weight + tl.load(now + (head + P.gate_at)) * (content - weight) if P.gate else content
        tl.store(now + (P.ring_at + h * P.slots + n), weight, mask=here)


@triton.jit
def _shift_and_sharpen(now, then, n, here, one, P: tl.constexpr):
    """Equations 8 and 9; sharpening as a softmax of logarithms."""
    for h in range(P.heads * one):
        weight = shifted(now, h, n, here, one, P)
        if P.sharpening:
            sharpening = tl.load(now + (P.sent_at + h * P.head + P.sharpening_at))
            weight = softmax(sharpening * tl.log(sharpening_base(weight, P)), here)
        tl.store(then + (P.weights_at + h * P.slots + n), weight, mask=here)


@triton.jit
def _read_and_write(rows, now, then, seen, n, w, here, inside, one, P: tl.constexpr):
    """Read vectors (equation 2), and the memory after all have erased and then all have added (3 and 4)."""
    for h in range(P.read_heads * one):
        weight = tl.load(then + (P.weights_at + h * P.slots + n), mask=here, other=0.0)
        reads = P.features + P.hidden + h * P.word
        tl.store(seen + (reads + w), tl.sum(weight[:, None] * rows, 0), mask=inside)
    slots, erases, adds = P.weights_at + P.read_heads * P.slots, P.sent_at + P.erase_at, P.sent_at + P.add_at
    for h in range(P.write_heads * one):
        weight = tl.load(then + (slots + h * P.slots + n), mask=here, other=0.0)
        rows *= 1.0 - weight[:, None] * tl.load(now + (erases + h * P.word + w), mask=inside, other=0.0)[None, :]
    for h in range(P.write_heads * one):
        weight = tl.load(then + (slots + h * P.slots + n), mask=here, other=0.0)
        rows += weight[:, None] * tl.load(now + (adds + h * P.word + w), mask=inside, other=0.0)[None, :]
    return rows
