"""The contract of a Transformer's memory: explicit state, read, write, reset; and the window it works beside.

A memory has one of two places. A `LayerMemory` belongs to one layer, whose attention reads it together with the window
(persistent key-values, kNN memory). A `TokenMemory` belongs to the model: its tokens pass through the layers beside the
sequence, and every position can attend to them (memory tokens).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import reset_rows


class Sizes(NamedTuple):
    """What only the model knows about the layers that a memory serves.

    Attributes:
        d_model: width of the sequence's vectors.
        num_heads: heads of a layer.
        head_size: width of a head's queries, keys and values.
        window: positions a query sees without a memory, itself included; a chunk is no longer than this.
    """

    d_model: int
    num_heads: int
    head_size: int
    window: int


class Slots(NamedTuple):
    """Keys and values without a position, seen by every query (keys: see `rotary.place_free`)."""

    keys: Float[Tensor, "#batch heads slots word"]
    values: Float[Tensor, "#batch heads slots word"]


class Window(NamedTuple):
    """A chunk of queries and their neighbourhood: `window - 1` earlier positions, then the chunk itself ("near").

    Attributes:
        query: one per position of the chunk, scaled, without rotation.
        rotated_query: the same, rotated.
        keys: of all near positions, of length 1, without rotation.
        rotated_keys: the same, rotated.
        values: of all near positions.
        visible: which near position a query sees: itself, the `window - 1` before it, none before the row's start.
        start: position of the chunk's first query in its row.
        slots: keys and values beside the near ones.
    """

    query: Float[Tensor, "batch heads time word"]
    rotated_query: Float[Tensor, "batch heads time word"]
    keys: Float[Tensor, "batch heads near word"]
    rotated_keys: Float[Tensor, "batch heads near word"]
    values: Float[Tensor, "batch heads near word"]
    visible: Bool[Tensor, "batch time near"]
    start: Int[Tensor, " batch"]
    slots: Sequence[Slots] = ()

    def leaving(self) -> tuple[Tensor, Tensor, Int[Tensor, "batch time"]]:
        """Keys, values and positions of what the window loses, one per query; a negative position is no entry.

        Entry i leaves the window after query i: the first query that no longer sees it is number i + 1.
        """
        time = self.query.shape[2]
        before = self.keys.shape[2] - time
        steps = torch.arange(time, device=self.start.device)
        return self.keys[:, :, :time], self.values[:, :, :time], self.start[:, None] - before + steps


class Memory(nn.Module, ABC):
    """What every kind has: a state with batch first, nothing remembered on `self`."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State of an empty memory: tensors with batch first in (named) tuples; `()` where nothing is remembered."""

    def reset(self, state: Any, where: Bool[Tensor, " batch"]) -> Any:
        """State with the memory of the rows marked in `where` emptied, all others untouched."""
        return reset_rows(state, self.initial_state(where.shape[0]), where)


class LayerMemory(Memory):
    """A memory of one layer: its attention to the window is a read of both."""

    @abstractmethod
    def read(self, window: Window, state: Any) -> Float[Tensor, "batch heads time word"]:
        """Values attended to, in the window and in the memory; query i sees what was written before entry i."""

    def write(
        self,
        state: Any,
        keys: Float[Tensor, "batch heads time word"],
        values: Float[Tensor, "batch heads time word"],
        positions: Int[Tensor, "batch time"],
    ) -> Any:
        """State after consecutive `positions` of each row were written; negative ones are no entries.

        A memory that is only learned writes nothing.
        """
        return state

    def forward(self, window: Window, state: Any) -> tuple[Float[Tensor, "batch heads time word"], Any]:
        """Write what leaves the window, then read: the same as query by query, as a read sees earlier entries only."""
        state = self.write(state, *window.leaving())
        return self.read(window, state), state


class TokenMemory(Memory):
    """A memory of the model: vectors that pass through the layers beside the sequence."""

    @abstractmethod
    def read(self, state: Any) -> Float[Tensor, "#batch tokens d_model"]:
        """Tokens as they enter the first layer (batch 1 if they are the same in every row)."""

    def write(self, state: Any, tokens: Float[Tensor, "#batch tokens d_model"]) -> Any:
        """State after a chunk, from the tokens as they left the last layer. Tokens that are only learned: unchanged."""
        return state


def attend(window: Window) -> Float[Tensor, "batch heads time word"]:
    """One softmax over the slots and the window: softmax(q · [slot keys; near keys]) [slot values; near values]."""
    rows, time = window.visible.shape[:2]
    keys = [slots.keys.expand(rows, -1, -1, -1) for slots in window.slots]
    values = [slots.values.expand(rows, -1, -1, -1) for slots in window.slots]
    seen = [window.visible.new_ones(rows, time, key.shape[2]) for key in keys]
    return F.scaled_dot_product_attention(
        window.rotated_query,
        torch.cat([*keys, window.rotated_keys], dim=2),
        torch.cat([*values, window.values], dim=2),
        attn_mask=torch.cat([*seen, window.visible], dim=-1)[:, None],
        scale=1.0,
    )


def unit_length(vectors: Float[Tensor, "*rows word"]) -> Float[Tensor, "*rows word"]:
    """v / √(|v|² + 1e-8): length 1, and a finite gradient at zero."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-8)
