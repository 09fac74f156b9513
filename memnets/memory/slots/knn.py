"""kNN memory: past keys and values, found again by exact search (Wu et al. 2022, arXiv:2203.08913)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.memory.slots.base import Found, LayerMemory, Sizes, Window
from memnets.ops.topk_address import topk_address


class KNNState(NamedTuple):
    """Per row a ring of entries: position p lies in slot p modulo the ring's size; `written` counts the positions."""

    keys: Float[Tensor, "batch heads ring word"]
    values: Float[Tensor, "batch heads ring word"]
    written: Int[Tensor, " batch"]


class KNNMemory(LayerMemory):
    """The `capacity` keys and values that left the window last, first in, first out, in each row for itself.

    A query at position t sees the window, t - window + 1 to t, and the `top_k` best of the `capacity` positions before
    it, in one softmax or, as in the paper, in two with a gate (`integration.py`). Keys are compared without rotation,
    as what is far away should be found by what it is. The ring has `window` entries to spare, so that a whole chunk can
    be written before it is read: each query's own range is masked, and results don't depend on how a sequence is cut.

    Args:
        sizes: of the layer.
        capacity: entries a query can choose from.
        top_k: entries it attends to; all are exact neighbours.
        differentiable: whether gradients reach what was written, within one call of the model. The paper's memory is
            detached: its keys and values then learn from what is asked for within the window alone, and where nothing
            is (`task.local_queries=0`) recall is learned late or not at all.

    Raises:
        ValueError: unless 1 <= top_k <= capacity.
    """

    def __init__(self, sizes: Sizes, capacity: int = 1024, top_k: int = 8, differentiable: bool = True) -> None:
        super().__init__()
        if not 1 <= top_k <= capacity:
            raise ValueError(f"KNNMemory needs 1 <= top_k <= capacity, not top_k={top_k} and capacity={capacity}")
        self.capacity, self.top_k, self.differentiable = capacity, top_k, differentiable
        self.register_buffer("empty", torch.zeros(sizes.num_key_heads, capacity + sizes.window, sizes.head_size), False)

    def initial_state(self, batch_size: int) -> KNNState:
        """Return empty rings."""
        empty = self.get_buffer("empty").expand(batch_size, -1, -1, -1)
        return KNNState(empty, empty, torch.zeros(batch_size, dtype=torch.long, device=empty.device))

    def write(
        self,
        state: KNNState,
        keys: Float[Tensor, "batch heads time word"],
        values: Float[Tensor, "batch heads time word"],
        positions: Int[Tensor, "batch time"],
    ) -> KNNState:
        """Return rings in which the positions have taken the places of the oldest.

        Negative positions land in slots that are still empty and stay invisible.
        """
        if not self.differentiable:
            keys, values = keys.detach(), values.detach()
        ring = state.keys.shape[2]
        place = (positions % ring)[:, None, :, None].expand_as(keys)
        return KNNState(
            state.keys.scatter(2, place, keys),
            state.values.scatter(2, place, values),
            (positions[:, -1] + 1).clamp_min(0),
        )

    def read(self, window: Window, state: KNNState) -> Found:
        """Return the top-k entries for every query."""
        visible = self.visible(state, window.leaving()[2])
        scores, found = topk_address(window.query, state.keys, visible, self.top_k)
        return Found(scores, found, state.keys, state.values)

    def visible(self, state: KNNState, positions: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time ring"]:
        """Which slots hold an entry before positions[:, i], but no more than `capacity` before."""
        ring = state.keys.shape[2]
        newest = state.written[:, None] - 1
        held = newest - (newest - torch.arange(ring, device=newest.device)) % ring
        age = rearrange(positions, "b t -> b t 1") - rearrange(held, "b n -> b 1 n")
        return (age >= 1) & (age <= self.capacity) & (held >= 0)[:, None]
