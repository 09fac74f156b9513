"""The sequence kernel's backward pass: the gradient of the memory is a tile on the chip from last to first step."""

from __future__ import annotations

import triton
import triton.language as tl

from memnets.kernels.triton.ntm_heads import (
    inverse_norms,
    key_and_similarity,
    sharpening_base,
    shift_scale,
    shifted,
    softmax,
    softplus_slope,
    strengthened,
    tanh,
    tile,
    times,
)


@triton.jit
def backward(recurrence, interface, lengths, features, trace, d_features, gradients, d_sums, time, P: tl.constexpr):
    """Both matrices are transposed. `gradients` holds those of the final state, and then those of the initial one.

    `d_sums` receives those of every step's gates and interface, before activations.
    """
    b = tl.program_id(0).to(tl.int64)
    n, w, here, inside, at, both = tile(P)
    gradients += b * P.gradients
    d_rows = tl.load(gradients + at, mask=both, other=0.0)
    steps = tl.load(lengths + b).to(tl.int32)
    one = tl.minimum(steps, 1)
    for back in range(steps):
        t = steps - 1 - back
        step = b * time + t
        now, d_now = trace + (step + b) * P.trace, d_sums + step * (P.gates + P.interface)
        output, d_output = features + (step + b + 1) * P.features, d_features + (step + b + 1) * P.features
        rows = tl.load(now + at, mask=both, other=0.0)
        d_rows = _access(rows, d_rows, now, d_output, gradients, d_now, n, w, here, inside, one, P)
        tl.debug_barrier()
        _sharpen(now, gradients, d_now, n, here, one, P)
        tl.debug_barrier()
        d_rows = _address(rows, d_rows, now, gradients, d_now, n, w, here, inside, one, P)
        tl.debug_barrier()
        _control(interface, output, now, d_output, gradients, d_now, t, one, P)
        tl.debug_barrier()
        _carry(recurrence, gradients, d_now, one, P)
        tl.debug_barrier()
    tl.store(gradients + at, d_rows, mask=both)


@triton.jit
def _access(rows, d_rows, now, d_output, gradients, d_now, n, w, here, inside, one, P: tl.constexpr):
    """Gradients of weights, erases and adds; and of the memory before, but for what addressing adds."""
    used, erases, adds = P.trace + P.weights_at, P.sent_at + P.erase_at, P.sent_at + P.add_at
    for h in range(P.write_heads * one):
        slot, word = (P.read_heads + h) * P.slots + n, h * P.word + w
        weight = tl.load(now + (used + slot), mask=here, other=0.0)
        erase = tl.load(now + (erases + word), mask=inside, other=0.0)
        add = tl.load(now + (adds + word), mask=inside, other=0.0)
        d_keep = d_rows * rows  # of this head's own factor, once the other heads' are in
        for other in range(P.write_heads * one):
            others = (P.read_heads + other) * P.slots + n
            others = tl.load(now + (used + others), mask=here & (other != h), other=0.0)
            theirs = tl.load(now + (erases + other * P.word + w), mask=inside, other=0.0)
            d_keep *= 1.0 - others[:, None] * theirs[None, :]
        d_weight = tl.load(gradients + (P.weights_at + slot), mask=here, other=0.0)
        d_weight += tl.sum(d_rows * add[None, :] - d_keep * erase[None, :], 1)
        tl.store(gradients + (P.d_used_at + slot), d_weight, mask=here)
        d_erase, d_add = -tl.sum(d_keep * weight[:, None], 0), tl.sum(d_rows * weight[:, None], 0)
        tl.store(d_now + (P.gates + P.erase_at + word), d_erase * erase * (1.0 - erase), mask=inside)
        tl.store(d_now + (P.gates + P.add_at + word), d_add * (1.0 - add * add), mask=inside)
    for h in range(P.write_heads * one):
        weight = tl.load(now + (used + (P.read_heads + h) * P.slots + n), mask=here, other=0.0)
        d_rows *= 1.0 - weight[:, None] * tl.load(now + (erases + h * P.word + w), mask=inside, other=0.0)[None, :]
    for h in range(P.read_heads * one):
        slot, word = h * P.slots + n, P.hidden + h * P.word + w
        weight = tl.load(now + (used + slot), mask=here, other=0.0)
        d_read = tl.load(gradients + (P.d_features_at + word), mask=inside, other=0.0)
        d_read += tl.load(d_output + word, mask=inside, other=0.0)
        d_weight = tl.load(gradients + (P.weights_at + slot), mask=here, other=0.0) + tl.sum(rows * d_read[None, :], 1)
        tl.store(gradients + (P.d_used_at + slot), d_weight, mask=here)
        d_rows += weight[:, None] * d_read[None, :]
    return d_rows


@triton.jit
def _sharpen(now, gradients, d_now, n, here, one, P: tl.constexpr):
    """Gradients of sharpenings and of the weights before."""
    for h in range(P.heads * one):
        slot, sharpening_at = h * P.slots + n, h * P.head + P.sharpening_at
        d_weight = tl.load(gradients + (P.d_used_at + slot), mask=here, other=0.0)
        if P.sharpening:
            moved = shifted(now, h, n, here, one, P)
            weight = tl.load(now + (P.trace + P.weights_at + slot), mask=here, other=0.0)
            base, sharpening = sharpening_base(moved, P), tl.load(now + (P.sent_at + sharpening_at))
            d_scores = weight * (d_weight - tl.sum(weight * d_weight, 0))
            d_sharpening = tl.sum(d_scores * tl.log(base), 0)
            tl.store(d_now + (P.gates + sharpening_at), d_sharpening * softplus_slope(sharpening - 1.0))
            d_weight = tl.where(moved < 0.0, 0.0, sharpening * d_scores / base)
        tl.store(gradients + (P.d_shifted_at + slot), d_weight, mask=here)


@triton.jit
def _address(rows, d_rows, now, gradients, d_now, n, w, here, inside, one, P: tl.constexpr):
    """Gradients of all else that heads emit, of the previous weights, and of the memory."""
    inverse = inverse_norms(rows, P)
    d_norms = tl.zeros((P.slots_tile,), rows.dtype)
    for h in range(P.heads * one):
        head, d_head, slot = P.sent_at + h * P.head, P.gates + h * P.head, h * P.slots + n
        d_weight = _unshift(now, gradients, d_now, h, n, here, one, P)
        if P.key:
            key, key_inverse, similarity = key_and_similarity(rows, inverse, now, head, w, inside, P)
            content = softmax(strengthened(similarity, now, head, P), here)
            d_content = d_weight
            if P.gate:
                weight = tl.load(now + (P.weights_at + slot), mask=here, other=0.0)
                gate, d_gate = tl.load(now + (head + P.gate_at)), tl.sum(d_weight * (content - weight), 0)
                tl.store(d_now + (d_head + P.gate_at), d_gate * gate * (1.0 - gate))
                d_content = gate * d_weight
            d_weight -= d_content
            d_similarity = content * (d_content - tl.sum(d_content * content, 0))  # times strength, so far
            d_strength = tl.sum(d_similarity * similarity, 0)
            if P.strength:
                slope = softplus_slope(tl.load(now + (head + P.strength_at)))
                tl.store(d_now + (d_head + P.strength_at), d_strength * slope)
            d_similarity = strengthened(d_similarity, now, head, P)
            if P.cosine:
                d_norms += d_similarity * similarity * inverse * inverse
                d_similarity = d_similarity * key_inverse * inverse
            d_rows += d_similarity[:, None] * key[None, :]
            d_key = tl.sum(d_similarity[:, None] * rows, 0)
            if P.cosine:
                d_key -= strengthened(d_strength, now, head, P) * key_inverse * key_inverse * key
            tl.store(d_now + (d_head + w), d_key * (1.0 - key * key), mask=inside)
        elif P.strength:  # of no use without a key
            tl.store(d_now + (d_head + P.strength_at), 0.0)
        tl.store(gradients + (P.weights_at + slot), d_weight, mask=here)
    return d_rows - d_norms[:, None] * rows


@triton.jit
def _unshift(now, gradients, d_now, h, n, here, one, P: tl.constexpr):
    """Gradients of a head's shift and of the weights before it."""
    slots, head = h * P.slots, P.sent_at + h * P.head
    d_after = tl.load(gradients + (P.d_shifted_at + slots + n), mask=here, other=0.0)
    if P.shift_width == 0:
        return d_after
    else:
        highest, total = shift_scale(now, head, P)
        index = tl.arange(0, P.shift_tile)
        d_shift, d_weight = tl.zeros((P.shift_tile,), d_after.dtype), tl.zeros((P.slots_tile,), d_after.dtype)
        for j in range(P.shift_width * one):
            part = tl.exp(tl.load(now + (head + P.shift_at + j)) - highest) / total
            offset = j - P.shift_width // 2
            source, target = slots + (n - offset + P.wrap) % P.slots, slots + (n + offset + P.wrap) % P.slots
            d_part = tl.sum(d_after * tl.load(now + (P.ring_at + source), mask=here, other=0.0), 0)
            d_shift = tl.where(index == j, d_part, d_shift)
            d_weight += part * tl.load(gradients + (P.d_shifted_at + target), mask=here, other=0.0)
        present = index < P.shift_width
        raw = tl.load(now + (head + P.shift_at + index), mask=present, other=float("-inf"))
        shift = tl.exp(raw - highest) / total
        d_shift = shift * (d_shift - tl.sum(shift * d_shift, 0))
        tl.store(d_now + (P.gates + h * P.head + P.shift_at + index), d_shift, mask=present)
        return d_weight


@triton.jit
def _control(interface, output, now, d_output, gradients, d_now, t, one, P: tl.constexpr):
    """Gradients of the controller's sums and of the cell before."""
    for first in range(0, P.hidden * one, P.rows):
        unit = first + tl.arange(0, P.rows)
        present = unit < P.hidden
        d_hidden = tl.load(gradients + (P.d_features_at + unit), mask=present, other=0.0)
        d_hidden += tl.load(d_output + unit, mask=present, other=0.0)
        d_hidden += times(interface, d_now, P.gates, unit, present, P.interface, one, P)
        if P.lstm:
            insert = tl.load(now + (P.gates_at + unit), mask=present, other=0.0)
            forget = tl.load(now + (P.gates_at + P.hidden + unit), mask=present, other=0.0)
            candidate = tl.load(now + (P.gates_at + 2 * P.hidden + unit), mask=present, other=0.0)
            emit = tl.load(now + (P.gates_at + 3 * P.hidden + unit), mask=present, other=0.0)
            cell = tl.load(now + (P.cell_at + unit), mask=present, other=0.0)
            squashed = tanh(forget * cell + insert * candidate)
            after, before = P.d_cell_at + (t + 1) % 2 * P.hidden, P.d_cell_at + t % 2 * P.hidden
            d_cell = tl.load(gradients + (after + unit), mask=present, other=0.0)
            d_cell += d_hidden * emit * (1.0 - squashed * squashed)
            tl.store(gradients + (before + unit), d_cell * forget, mask=present)
            tl.store(d_now + unit, d_cell * candidate * insert * (1.0 - insert), mask=present)
            tl.store(d_now + (P.hidden + unit), d_cell * cell * forget * (1.0 - forget), mask=present)
            tl.store(d_now + (2 * P.hidden + unit), d_cell * insert * (1.0 - candidate * candidate), mask=present)
            tl.store(d_now + (3 * P.hidden + unit), d_hidden * squashed * emit * (1.0 - emit), mask=present)
        else:
            hidden = tl.load(output + unit, mask=present, other=0.0)
            tl.store(d_now + unit, d_hidden * (1.0 - hidden * hidden), mask=present)


@triton.jit
def _carry(recurrence, gradients, d_now, one, P: tl.constexpr):
    """Gradient of the features before."""
    for first in range(0, P.features * one, P.rows):
        i = first + tl.arange(0, P.rows)
        present = i < P.features
        d_seen = times(recurrence, d_now, 0, i, present, P.gates, one, P)
        tl.store(gradients + (P.d_features_at + i), d_seen, mask=present)
