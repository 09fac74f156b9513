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
    for back in range(steps):
        t = steps - 1 - back
        step = b * time + t
        now, d_now = trace + (step + b) * P.trace, d_sums + step * (P.gates + P.interface)
        output = (step + b + 1) * P.features
        rows = tl.load(now + at, mask=both, other=0.0)
        d_rows = _access(rows, d_rows, now, d_features + output, gradients, d_now + P.gates, n, w, here, inside, P)
        tl.debug_barrier()
        _sharpen(now, gradients, d_now + P.gates, n, here, P)
        tl.debug_barrier()
        d_rows = _address(rows, d_rows, now, gradients, d_now + P.gates, n, w, here, inside, P)
        tl.debug_barrier()
        _control(interface, features + output, now, d_features + output, gradients, d_now, t, P)
        tl.debug_barrier()
        for first in range(0, P.features, P.rows):
            i = first + tl.arange(0, P.rows)
            present = i < P.features
            tl.store(gradients + P.d_features_at + i, times(recurrence, d_now, i, present, P.gates, P), mask=present)
        tl.debug_barrier()
    tl.store(gradients + at, d_rows, mask=both)


@triton.jit
def _access(rows, d_rows, now, d_output, gradients, d_raw, n, w, here, inside, P: tl.constexpr):
    """Gradients of weights, erases and adds; and of the memory before, but for what addressing adds."""
    sent, used = now + P.sent_at, now + P.trace + P.weights_at
    for h in range(P.write_heads):
        slot, word = (P.read_heads + h) * P.slots + n, h * P.word + w
        weight = tl.load(used + slot, mask=here, other=0.0)
        erase = tl.load(sent + P.erase_at + word, mask=inside, other=0.0)
        add = tl.load(sent + P.add_at + word, mask=inside, other=0.0)
        d_keep = d_rows * rows  # of this head's own factor, once the other heads' are in
        for other in range(P.write_heads):
            others = tl.load(used + (P.read_heads + other) * P.slots + n, mask=here & (other != h), other=0.0)
            theirs = tl.load(sent + P.erase_at + other * P.word + w, mask=inside, other=0.0)
            d_keep *= 1.0 - others[:, None] * theirs[None, :]
        d_weight = tl.load(gradients + P.weights_at + slot, mask=here, other=0.0)
        d_weight += tl.sum(d_rows * add[None, :] - d_keep * erase[None, :], 1)
        tl.store(gradients + P.d_used_at + slot, d_weight, mask=here)
        d_erase, d_add = -tl.sum(d_keep * weight[:, None], 0), tl.sum(d_rows * weight[:, None], 0)
        tl.store(d_raw + P.erase_at + word, d_erase * erase * (1.0 - erase), mask=inside)
        tl.store(d_raw + P.add_at + word, d_add * (1.0 - add * add), mask=inside)
    for h in range(P.write_heads):
        weight = tl.load(used + (P.read_heads + h) * P.slots + n, mask=here, other=0.0)
        d_rows *= 1.0 - weight[:, None] * tl.load(sent + P.erase_at + h * P.word + w, mask=inside, other=0.0)[None, :]
    for h in range(P.read_heads):
        slot, word = h * P.slots + n, P.hidden + h * P.word + w
        weight = tl.load(used + slot, mask=here, other=0.0)
        d_read = tl.load(gradients + P.d_features_at + word, mask=inside, other=0.0)
        d_read += tl.load(d_output + word, mask=inside, other=0.0)
        d_weight = tl.load(gradients + P.weights_at + slot, mask=here, other=0.0) + tl.sum(rows * d_read[None, :], 1)
        tl.store(gradients + P.d_used_at + slot, d_weight, mask=here)
        d_rows += weight[:, None] * d_read[None, :]
    return d_rows


@triton.jit
def _sharpen(now, gradients, d_raw, n, here, P: tl.constexpr):
    """Gradients of sharpenings and of the weights before."""
    for h in range(P.heads):
        head, slot = now + P.sent_at + h * P.head, h * P.slots + n
        d_weight = tl.load(gradients + P.d_used_at + slot, mask=here, other=0.0)
        if P.sharpening:
            moved = shifted(now + P.ring_at + h * P.slots, head, n, here, P)
            weight = tl.load(now + P.trace + P.weights_at + slot, mask=here, other=0.0)
            base, sharpening = sharpening_base(moved, P), tl.load(head + P.sharpening_at)
            d_scores = weight * (d_weight - tl.sum(weight * d_weight, 0))
            d_sharpening = tl.sum(d_scores * tl.log(base), 0)
            tl.store(d_raw + h * P.head + P.sharpening_at, d_sharpening * softplus_slope(sharpening - 1.0))
            d_weight = tl.where(moved < 0.0, 0.0, sharpening * d_scores / base)
        tl.store(gradients + P.d_shifted_at + slot, d_weight, mask=here)


@triton.jit
def _address(rows, d_rows, now, gradients, d_raw, n, w, here, inside, P: tl.constexpr):
    """Gradients of all else that heads emit, of the previous weights, and of the memory."""
    inverse = inverse_norms(rows, P)
    d_norms = tl.zeros((P.slots_tile,), rows.dtype)
    for h in range(P.heads):
        head, d_head, slots = now + P.sent_at + h * P.head, d_raw + h * P.head, h * P.slots
        d_weight = _unshift(now + P.ring_at + slots, gradients + P.d_shifted_at + slots, head, d_head, n, here, P)
        if P.key:
            key, key_inverse, similarity = key_and_similarity(rows, inverse, head, w, inside, P)
            content = softmax(strengthened(similarity, head, P), here)
            d_content = d_weight
            if P.gate:
                weight = tl.load(now + P.weights_at + slots + n, mask=here, other=0.0)
                gate, d_gate = tl.load(head + P.gate_at), tl.sum(d_weight * (content - weight), 0)
                tl.store(d_head + P.gate_at, d_gate * gate * (1.0 - gate))
                d_content = gate * d_weight
            d_weight -= d_content
            d_similarity = content * (d_content - tl.sum(d_content * content, 0))  # times strength, so far
            d_strength = tl.sum(d_similarity * similarity, 0)
            if P.strength:
                tl.store(d_head + P.strength_at, d_strength * softplus_slope(tl.load(head + P.strength_at)))
            d_similarity = strengthened(d_similarity, head, P)
            if P.cosine:
                d_norms += d_similarity * similarity * inverse * inverse
                d_similarity = d_similarity * key_inverse * inverse
            d_rows += d_similarity[:, None] * key[None, :]
            d_key = tl.sum(d_similarity[:, None] * rows, 0)
            if P.cosine:
                d_key -= strengthened(d_strength, head, P) * key_inverse * key_inverse * key
            tl.store(d_head + w, d_key * (1.0 - key * key), mask=inside)
        tl.store(gradients + P.weights_at + slots + n, d_weight, mask=here)
    return d_rows - d_norms[:, None] * rows


@triton.jit
def _unshift(ring, d_shifted, head, d_head, n, here, P: tl.constexpr):
    """Gradients of the shift and of the weights before it."""
    d_after = tl.load(d_shifted + n, mask=here, other=0.0)
    if P.shift_width == 0:
        return d_after
    else:
        highest, total = shift_scale(head, P)
        index = tl.arange(0, P.shift_tile)
        d_shift, d_weight = tl.zeros((P.shift_tile,), d_after.dtype), tl.zeros((P.slots_tile,), d_after.dtype)
        for j in range(P.shift_width):
            part = tl.exp(tl.load(head + P.shift_at + j) - highest) / total
            offset = j - P.shift_width // 2
            d_part = tl.sum(d_after * tl.load(ring + (n - offset + P.wrap) % P.slots, mask=here, other=0.0), 0)
            d_shift = tl.where(index == j, d_part, d_shift)
            d_weight += part * tl.load(d_shifted + (n + offset + P.wrap) % P.slots, mask=here, other=0.0)
        raw = tl.load(head + P.shift_at + index, mask=index < P.shift_width, other=float("-inf"))
        shift = tl.exp(raw - highest) / total
        d_shift = shift * (d_shift - tl.sum(shift * d_shift, 0))
        tl.store(d_head + P.shift_at + index, d_shift, mask=index < P.shift_width)
        return d_weight


@triton.jit
def _control(interface, output, now, d_output, gradients, d_now, t, P: tl.constexpr):
    """Gradients of the controller's sums and of the cell before."""
    for first in range(0, P.hidden, P.rows):
        unit = first + tl.arange(0, P.rows)
        present = unit < P.hidden
        d_hidden = tl.load(gradients + P.d_features_at + unit, mask=present, other=0.0)
        d_hidden += tl.load(d_output + unit, mask=present, other=0.0)
        d_hidden += times(interface, d_now + P.gates, unit, present, P.interface, P)
        if P.lstm:
            insert = tl.load(now + P.gates_at + unit, mask=present, other=0.0)
            forget = tl.load(now + P.gates_at + P.hidden + unit, mask=present, other=0.0)
            candidate = tl.load(now + P.gates_at + 2 * P.hidden + unit, mask=present, other=0.0)
            emit = tl.load(now + P.gates_at + 3 * P.hidden + unit, mask=present, other=0.0)
            cells = tl.load(now + P.cell_at + unit, mask=present, other=0.0)
            squashed = tanh(forget * cells + insert * candidate)
            d_cell = tl.load(gradients + P.d_cell_at + (t + 1) % 2 * P.hidden + unit, mask=present, other=0.0)
            d_cell += d_hidden * emit * (1.0 - squashed * squashed)
            tl.store(d_now + unit, d_cell * candidate * insert * (1.0 - insert), mask=present)
            tl.store(d_now + P.hidden + unit, d_cell * cells * forget * (1.0 - forget), mask=present)
            tl.store(d_now + 2 * P.hidden + unit, d_cell * insert * (1.0 - candidate * candidate), mask=present)
            tl.store(d_now + 3 * P.hidden + unit, d_hidden * squashed * emit * (1.0 - emit), mask=present)
            tl.store(gradients + P.d_cell_at + t % 2 * P.hidden + unit, d_cell * forget, mask=present)
        else:
            hidden = tl.load(output + unit, mask=present, other=0.0)
            tl.store(d_now + unit, d_hidden * (1.0 - hidden * hidden), mask=present)
