"""What the sequence kernel is compiled for: sizes, parts, and where numbers lie in the tensors it passes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memnets.kernels.triton.launch import ceil_power


@dataclass(frozen=True, repr=False)
class Plan:
    """An NTM's sizes and parts, and where its numbers lie: what the kernels are compiled with.

    - Features: the controller's output, then the read vectors.
    - Interface: a slice per head, read heads first (key, strength, gate, shift, sharpening); then what each write head
      erases, then what each adds. Activated, but for the shift.
    - Trace, a row per state: memory, weights and cell; in between, of the step from there, weights before the shift,
      and at the end gates i f g o and interface.
    - Gradients, passed from step to step: of memory and weights; of the step's own weights, after and before
      sharpening; of the cell, twice; of the features.
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

    def __repr__(self) -> str:
        """All that kernels read here: Triton finds compiled ones by it."""
        return repr({name: getattr(self, name) for name in dir(self) if not name.startswith("_")})

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
