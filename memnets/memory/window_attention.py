"""Causal sliding-window attention of one layer, read together with the layer's memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.memory.rotary import Rotary, place_free
from memnets.memory.slots.base import LayerMemory, Sizes, Slots, Window, attend, unit_length

FIRST_SCALE = 10.0
"""Scores of unit queries and keys begin between -10 and 10."""


class LayerState(NamedTuple):
    """Keys (without rotation) and values of the last `window - 1` positions, and the memory's own state."""

    keys: Float[Tensor, "batch heads before word"]
    values: Float[Tensor, "batch heads before word"]
    memory: Any


class WindowAttention(nn.Module):
    """softmax(s · q̂ k̂ᵀ) v over the last `window` positions, and over what the memory adds.

    q̂ and k̂ have length 1 and s is learned for each head: stored keys stay comparable however the weights grow. Rotation
    counts from the oldest near position, as only differences matter: there is no longest sequence.
    """

    def __init__(self, sizes: Sizes, memory: LayerMemory | None) -> None:
        super().__init__()
        self.sizes, self.memory = sizes, memory
        self.rotary = Rotary(sizes.head_size)
        width = sizes.num_heads * sizes.head_size
        self.project = nn.Linear(sizes.d_model, 3 * width, bias=False)
        self.log_scale = nn.Parameter(torch.full((sizes.num_heads, 1, 1), math.log(FIRST_SCALE)))
        self.output = nn.Linear(width, sizes.d_model, bias=False)

    def initial_state(self, batch_size: int) -> LayerState:
        """Nothing seen yet."""
        shape = (batch_size, self.sizes.num_heads, self.sizes.window - 1, self.sizes.head_size)
        empty = torch.zeros(shape, dtype=self.log_scale.dtype, device=self.log_scale.device)
        return LayerState(empty, empty, self.memory.initial_state(batch_size) if self.memory else ())

    def forward(
        self,
        hidden: Float[Tensor, "batch time d_model"],
        start: Int[Tensor, " batch"],
        state: LayerState,
        tokens: Float[Tensor, "#batch tokens d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch time d_model"], LayerState]:
        """What a chunk of at most `window` steps attends to, and the state after it.

        `start` is the position of the chunk's first step in its row; `tokens` are seen by every step.
        """
        query, keys, values = self._heads(hidden)
        time, before = hidden.shape[1], self.sizes.window - 1
        keys, values = torch.cat([state.keys, keys], dim=2), torch.cat([state.values, values], dim=2)
        visible = visible_near(start, time, self.sizes.window)
        turned = self.rotary(query, before), self.rotary(keys)
        slots = () if tokens is None else (self._slots(tokens),)
        window = Window(query, turned[0], keys, turned[1], values, visible, start, slots)
        attended, memory = self.memory(window, state.memory) if self.memory else (attend(window), state.memory)
        return self._join(attended), LayerState(keys[:, :, time:], values[:, :, time:], memory)

    def among(self, tokens: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        """What tokens without positions attend to: one another, all of them."""
        return self._join(F.scaled_dot_product_attention(*self._heads(tokens), scale=1.0))

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = rearrange(self.project(hidden), "b t (qkv h w) -> qkv b h t w", qkv=3, h=self.sizes.num_heads)
        query, keys, values = projected.unbind()
        return unit_length(query) * self.log_scale.exp(), unit_length(keys), values

    def _slots(self, tokens: Tensor) -> Slots:
        _, keys, values = self._heads(tokens)
        return Slots(place_free(keys), values)

    def _join(self, attended: Tensor) -> Tensor:
        return self.output(rearrange(attended, "b h t w -> b t (h w)"))


def visible_near(start: Int[Tensor, " batch"], time: int, window: int) -> Bool[Tensor, "batch time near"]:
    """Which near positions each of `time` queries sees: the `window` up to its own, none before the row's start."""
    near = torch.arange(window - 1 + time, device=start.device)
    offset = near - torch.arange(time, device=start.device)[:, None]
    begun = near + start[:, None] >= window - 1
    return ((offset >= 0) & (offset < window)) & begun[:, None]
