"""What the sequence kernel's passes share: activations, the product of a matrix and a vector, addressing.

Arithmetic as in the C++ kernel. What heads compute passes through global memory, a barrier between its store and its
loads by other threads: heads and shifts are then loops at run time, and take no registers. `one` in their bounds is 1,
which the compiler can't know: it unrolls loops of known length, and every turn takes registers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile(P: tl.constexpr):
    """Slots and components of a memory's tile, which of them there are, and the same of its numbers."""
    n, w = tl.arange(0, P.slots_tile), tl.arange(0, P.word_tile)
    here, inside = n < P.slots, w < P.word
    return n, w, here, inside, n[:, None] * P.word + w[None, :], here[:, None] & inside[None, :]


@triton.jit
def tanh(x):
    """Where 1 - 2 / (e^2x + 1) would cancel, x less a continued fraction; exact to rounding in float64 too."""
    size, square = tl.abs(x), x * x
    above = square * (45045.0 + square * (2772.0 + square * 27.0))
    below = 135135.0 + square * (62370.0 + square * (3150.0 + square * 28.0))
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x - x * (above / below), tl.where(x < 0.0, -large, large))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x); the rounding of 1 + e^-|x| is divided out again."""
    power = tl.exp(-tl.abs(x))
    rounded = 1.0 + power
    return tl.maximum(x, 0.0) + tl.where(rounded == 1.0, power, tl.log(rounded) * (power / (rounded - 1.0)))


@triton.jit
def softplus_slope(value):
    """Derivative of softplus, from its value: 1 - e^-value."""
    half = tanh(0.5 * value)
    return 2.0 * half / (1.0 + half)


@triton.jit
def softmax(scores, here):
    """Over those that are here; 0 elsewhere."""
    scores = tl.where(here, scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, 0))
    return powers / tl.sum(powers, 0)


@triton.jit
def times(matrix, vector, at, row, present, SIZE: tl.constexpr, one, P: tl.constexpr):
    """Rows of a matrix [.. SIZE] times what lies at `at` of a vector."""
    total = tl.zeros((P.rows, P.columns), matrix.dtype.element_ty)
    for first in range(0, SIZE * one, P.columns):
        column = first + tl.arange(0, P.columns)
        inside, at_both = column < SIZE, row[:, None] * SIZE + column[None, :]
        block = tl.load(matrix + at_both, mask=present[:, None] & inside[None, :], other=0.0)
        total += block * tl.load(vector + (at + column), mask=inside, other=0.0)[None, :]
    return tl.sum(total, 1)


@triton.jit
def inverse_norms(rows, P: tl.constexpr):
    """1 / |M(n)| of every slot."""
    return 1.0 / tl.sqrt(tl.sum(rows * rows, 1) + P.norm_epsilon)


@triton.jit
def key_and_similarity(rows, inverse, now, head, w, inside, P: tl.constexpr):
    """A head's key, 1 / |key|, and its similarity with every slot (equation 6)."""
    key = tl.load(now + (head + w), mask=inside, other=0.0)
    similarity = tl.sum(rows * key[None, :], 1)
    key_inverse = 1.0 / tl.sqrt(tl.sum(key * key, 0) + P.norm_epsilon)
    if P.cosine:
        similarity = similarity * key_inverse * inverse
    return key, key_inverse, similarity


@triton.jit
def strengthened(similarity, now, head, P: tl.constexpr):
    """Times the head's strength, if it has one."""
    if P.strength:
        similarity *= tl.load(now + (head + P.strength_at))
    return similarity


@triton.jit
def shift_scale(now, head, P: tl.constexpr):
    """Highest of what a head emits for its shift, and the sum of powers: the softmax of entry j needs both."""
    j = tl.arange(0, P.shift_tile)
    raw = tl.load(now + (head + P.shift_at + j), mask=j < P.shift_width, other=float("-inf"))
    highest = tl.max(raw, 0)
    return highest, tl.sum(tl.exp(raw - highest), 0)


@triton.jit
def shifted(now, h, n, here, one, P: tl.constexpr):
    """Σ_j shift(j) w(n - offset(j)), slots in a ring (equation 8); offset(j) = j - width // 2."""
    if P.shift_width == 0:
        return tl.load(now + (P.ring_at + h * P.slots + n), mask=here, other=0.0)
    else:
        head = P.sent_at + h * P.head
        highest, total = shift_scale(now, head, P)
        result = tl.zeros((P.slots_tile,), now.dtype.element_ty)
        for j in range(P.shift_width * one):
            part = tl.exp(tl.load(now + (head + P.shift_at + j)) - highest) / total
            source = P.ring_at + h * P.slots + (n - j + P.shift_width // 2 + P.wrap) % P.slots
            result += part * tl.load(now + source, mask=here, other=0.0)
        return result


@triton.jit
def sharpening_base(weights, P: tl.constexpr):
    """What sharpening takes the logarithm of."""
    return tl.where(weights < 0.0, 0.0, weights) + P.sharpen_epsilon
