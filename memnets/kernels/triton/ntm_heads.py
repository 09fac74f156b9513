"""What the sequence kernel's passes share: its constants, activations, matrix-vector product, and addressing.

Arithmetic as in the C++ kernel. Everything per head passes through global memory, so that heads and shifts are loops at
run time and take no registers: between a store and its loads by other threads stands a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import triton
import triton.language as tl

from memnets.kernels.triton.launch import ceil_power


@dataclass(frozen=True)
class Plan:
    """An NTM's sizes and parts, what the kernels are compiled with; and where things lie.

    Features: the controller's output, then the read vectors. Interface: a slice per head, read heads first (key,
    strength, gate, shift, sharpening); then what each write head erases, then what each adds.
    Trace, one row per state: memory, weights, cell; and of the step from there: weights before the shift, gates i f g o,
    interface, activated.
    Gradients, passed from step to step: of memory and weights; of the step's weights before and after sharpening; of the
    cell, twice; of features.
    """

    slots: int
    word: int
    hidden: int
    read_heads: int
    write_heads: int
    lstm: bool
    similarity: str
    strength: bool
    gate: bool
    shift_width: int
    sharpening: bool

    norm_epsilon: ClassVar[float] = 1e-8
    sharpen_epsilon: ClassVar[float] = 1e-16
    rows: ClassVar[int] = 32
    """Of a block of a matrix."""
    columns: ClassVar[int] = 64

    @property
    def slots_tile(self) -> int:
        """Slots of the tile that holds a memory."""
        return ceil_power(self.slots)

    @property
    def word_tile(self) -> int:
        """Width of the tile that holds a memory."""
        return ceil_power(self.word)

    @property
    def shift_tile(self) -> int:
        """Width of a tile that holds a shift."""
        return ceil_power(self.shift_width)

    @property
    def wrap(self) -> int:
        """A multiple of the slots that no shift goes beyond."""
        return self.shift_width * self.slots

    @property
    def size(self) -> int:
        """Numbers in a memory."""
        return self.slots * self.word

    @property
    def heads(self) -> int:
        """Read and write heads."""
        return self.read_heads + self.write_heads

    @property
    def features(self) -> int:
        """Controller output beside read vectors."""
        return self.hidden + self.read_heads * self.word

    @property
    def cells(self) -> int:
        """Cells of the LSTM, if it is one."""
        return self.hidden if self.lstm else 0

    @property
    def gates(self) -> int:
        """Sums the controller takes the activations of."""
        return 4 * self.hidden if self.lstm else self.hidden

    @property
    def key(self) -> bool:
        """Whether heads address by content."""
        return self.similarity != "none"

    @property
    def cosine(self) -> bool:
        """Whether a key's and a slot's norm count."""
        return self.similarity == "cosine"

    @property
    def strength_at(self) -> int:
        """Where, in a head's slice, its strength lies."""
        return self.word if self.key else 0

    @property
    def gate_at(self) -> int:
        """Where its gate lies."""
        return self.strength_at + self.strength

    @property
    def shift_at(self) -> int:
        """Where its shift lies."""
        return self.gate_at + self.gate

    @property
    def sharpening_at(self) -> int:
        """Where its sharpening lies."""
        return self.shift_at + self.shift_width

    @property
    def head(self) -> int:
        """Numbers in a head's slice."""
        return self.sharpening_at + self.sharpening

    @property
    def erase_at(self) -> int:
        """Where the interface says what is erased."""
        return self.heads * self.head

    @property
    def add_at(self) -> int:
        """Where it says what is added."""
        return self.erase_at + self.write_heads * self.word

    @property
    def interface(self) -> int:
        """Numbers in the interface."""
        return self.add_at + self.write_heads * self.word

    @property
    def weights_at(self) -> int:
        """Where a row of the trace, and of the gradients, has the heads' weights."""
        return self.size

    @property
    def ring_at(self) -> int:
        """Where a row of the trace has the weights before the shift."""
        return self.weights_at + self.heads * self.slots

    @property
    def cell_at(self) -> int:
        """Where it has the LSTM's cell."""
        return self.ring_at + self.heads * self.slots

    @property
    def gates_at(self) -> int:
        """Where it has the LSTM's gates."""
        return self.cell_at + self.cells

    @property
    def sent_at(self) -> int:
        """Where it has the interface."""
        return self.gates_at + 4 * self.cells

    @property
    def trace(self) -> int:
        """Numbers in a row of the trace."""
        return self.sent_at + self.interface

    @property
    def d_used_at(self) -> int:
        """Where the gradients have that of the step's weights."""
        return self.weights_at + self.heads * self.slots

    @property
    def d_shifted_at(self) -> int:
        """Where they have that of the weights before sharpening."""
        return self.d_used_at + self.heads * self.slots

    @property
    def d_cell_at(self) -> int:
        """Where they have that of the cell: after an even step in the first of two places."""
        return self.d_shifted_at + self.heads * self.slots

    @property
    def d_features_at(self) -> int:
        """Where they have that of the features."""
        return self.d_cell_at + 2 * self.cells

    @property
    def gradients(self) -> int:
        """Numbers of them all."""
        return self.d_features_at + self.features


@triton.jit
def tile(P: tl.constexpr):
    """Slots and components of a memory's tile, which of them there are, and the same of its numbers."""
    n, w = tl.arange(0, P.slots_tile), tl.arange(0, P.word_tile)
    here, inside = n < P.slots, w < P.word
    return n, w, here, inside, n[:, None] * P.word + w[None, :], here[:, None] & inside[None, :]


@triton.jit
def tanh(x):
    """A continued fraction where 1 - 2 / (e^2x + 1) would cancel: exact to rounding in float64 too."""
    size, square = tl.abs(x), x * x
    above = 135135.0 + square * (17325.0 + square * (378.0 + square))
    below = 135135.0 + square * (62370.0 + square * (3150.0 + square * 28.0))
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x * above / below, tl.where(x < 0.0, -large, large))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x); the rounding of 1 + e^-|x| is divided out again."""
    power = tl.exp(-tl.abs(x))
    sum = 1.0 + power
    return tl.maximum(x, 0.0) + tl.where(sum == 1.0, power, tl.log(sum) * (power / (sum - 1.0)))


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
        inside = column < SIZE
        block = tl.load(
            matrix + row[:, None] * SIZE + column[None, :], mask=present[:, None] & inside[None, :], other=0.0
        )
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
