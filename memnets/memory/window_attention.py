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
from memnets.memory.slots.base import LayerMemory, Sizes, Slots, Window, unit_length
from memnets.memory.slots.integration import CrossAttention, Integration, along, attend, per_query_head

FIRST_SCALE = 10.0
"""Scores of unit queries and keys begin between -10 and 10."""


class LayerState(NamedTuple):
    """Keys (without rotation) and values of up to `window - 1` last positions, and the memory's own state.

    Before the first chunk there is none of them: `before` grows with what is read.
    """

    keys: Float[Tensor, "batch groups before word"]
    values: Float[Tensor, "batch groups before word"]
    memory: Any

    def emptied(self, where: Bool[Tensor, " batch"], memory: LayerMemory | None) -> LayerState:
        """State with the rows marked in `where` emptied.

        Zeros, though nothing sees them: 0 times what isn't finite would still spoil the row, and the memory it enters.
        """
        rows = where[:, None, None, None]
        keys, values = (part.masked_fill(rows, 0) for part in (self.keys, self.values))
        return LayerState(keys, values, self.memory if memory is None else memory.reset(self.memory, where))


class WindowAttention(nn.Module):
    """softmax(s · q̂ k̂ᵀ) v over the last `window` positions, joined by an `integration` with what a memory answers.

    q̂ and k̂ have length 1 and s is learned for each head: stored keys stay comparable however the weights grow. Rotation
    counts from the oldest near position, as only differences matter: there is no longest sequence.
    """

    def __init__(self, sizes: Sizes, integration: Integration | None) -> None:
        super().__init__()
        self.sizes, self.integration = sizes, integration
        self.rotary = Rotary(sizes.head_size)
        self.widths = [sizes.num_heads * sizes.head_size, *[sizes.num_key_heads * sizes.head_size] * 2]
        self.project = nn.Linear(sizes.d_model, sum(self.widths), bias=False)
        self.log_scale = nn.Parameter(torch.full((sizes.num_heads, 1, 1), math.log(FIRST_SCALE)))
        self.output = nn.Linear(self.widths[0], sizes.d_model, bias=False)

    def initial_state(self, batch_size: int, memory: LayerMemory | None) -> LayerState:
        """Nothing seen yet."""
        shape = (batch_size, self.sizes.num_key_heads, 0, self.sizes.head_size)
        empty = torch.zeros(shape, dtype=self.log_scale.dtype, device=self.log_scale.device)
        return LayerState(empty, empty, memory.initial_state(batch_size) if memory else ())

    def forward(
        self,
        hidden: Float[Tensor, "batch time d_model"],
        start: Int[Tensor, " batch"],
        state: LayerState,
        memory: LayerMemory | None,
        tokens: Float[Tensor, "#batch tokens d_model"] | None = None,
    ) -> tuple[Float[Tensor, "batch time d_model"], LayerState, Window]:
        """What a chunk of at most `window` steps attends to, the state after it, and the window it saw.

        `start` is the position of the chunk's first step in its row; `tokens` are seen by every step. A memory that is
        read by cross-attention is left to the layer.
        """
        window = self._window(hidden, start, state, tokens)
        keep = max(window.keys.shape[2] - self.sizes.window + 1, 0)
        remembered = state.memory
        if memory is None or self.integration is None or isinstance(self.integration, CrossAttention):
            attended = attend(window)
        else:
            reading, remembered = memory(window, state.memory)
            attended = self.integration(window, reading)
        after = LayerState(window.keys[:, :, keep:], window.values[:, :, keep:], remembered)
        return self._join(attended), after, window

    def cross(
        self, hidden: Float[Tensor, "batch time d_model"], window: Window, memory: LayerMemory, state: Any
    ) -> tuple[Float[Tensor, "batch time d_model"], Any]:
        """What queries made of `hidden` read from the memory alone, which takes in what leaves the window."""
        assert isinstance(self.integration, CrossAttention)
        hidden = self.integration.norm(hidden)
        query = rearrange(self.integration.query(hidden), "b t (h w) -> b h t w", h=self.sizes.num_heads)
        query = self._scaled(query)
        asked = window._replace(hidden=hidden, query=query, rotated_query=self.rotary(query, window.before))
        reading, state = memory(asked, state)
        read = self.integration(asked, reading)
        return self.integration.output(rearrange(read, "b h t w -> b t (h w)")), state

    def among(self, tokens: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        """What tokens without positions attend to: one another, all of them."""
        query, keys, values = self._heads(tokens)
        repeats = query.shape[1] // keys.shape[1]
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
        return self._join(F.scaled_dot_product_attention(query, keys, values, scale=1.0))

    def after(
        self, tokens: Float[Tensor, "batch tokens d_model"], window: Window, length: int | None
    ) -> Float[Tensor, "batch tokens d_model"]:
        """What tokens behind the last step attend to: one another, what is shown, and the last `length` positions."""
        query, keys, values = self._heads(tokens)
        own = Slots(place_free(keys), values)
        beside = [own] if window.shown is None else [window.shown, own]
        near = [part[:, :, -(length or 0) :] for part in (window.rotated_keys, window.values)]
        keys, values = (along(beside, field, part) for field, part in zip(("keys", "values"), near, strict=True))
        alone = rearrange(query, "b h n w -> (b n) h 1 w")
        turned = rearrange(self.rotary(alone, window.keys.shape[2]), "(b n) h 1 w -> b h n w", n=tokens.shape[1])
        keys, values = per_query_head(keys, window), per_query_head(values, window)
        return self._join(F.scaled_dot_product_attention(turned, keys, values, scale=1.0))

    def _window(self, hidden: Tensor, start: Tensor, state: LayerState, tokens: Tensor | None) -> Window:
        query, keys, values = self._heads(hidden)
        keys, values = torch.cat([state.keys, keys], dim=2), torch.cat([state.values, values], dim=2)
        before = state.keys.shape[2]
        visible = visible_near(start, hidden.shape[1], self.sizes.window, before)
        rotated = self.rotary(query, before), self.rotary(keys)
        shown = None if tokens is None else self._slots(tokens)
        return Window(hidden, query, rotated[0], keys, rotated[1], values, visible, start, self.sizes.window, shown)

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.project(hidden).split(self.widths, dim=-1)
        query, keys, values = (rearrange(part, "b t (h w) -> b h t w", w=self.sizes.head_size) for part in projected)
        return self._scaled(query), unit_length(keys), values

    def _scaled(self, query: Tensor) -> Tensor:
        return unit_length(query) * self.log_scale.exp()

    def _slots(self, tokens: Tensor) -> Slots:
        _, keys, values = self._heads(tokens)
        return Slots(place_free(keys), values)

    def _join(self, attended: Tensor) -> Tensor:
        return self.output(rearrange(attended, "b h t w -> b t (h w)"))


def visible_near(start: Int[Tensor, " batch"], time: int, window: int, before: int) -> Bool[Tensor, "batch time near"]:
    """Which near positions each of `time` queries sees: the `window` up to its own, none before the row's start."""
    near = torch.arange(before + time, device=start.device)
    offset = near - torch.arange(time, device=start.device)[:, None]
    begun = near + start[:, None] >= before
    return ((offset > before - window) & (offset <= before)) & begun[:, None]
