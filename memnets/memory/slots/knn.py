"""kNN memory: past keys and values, found again by exact search (Wu et al. 2022, arXiv:2203.08913)."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import Found, LayerMemory, Reading, Sizes, Window, mean_length
from memnets.ops.topk_address import topk_address

FIRST_DECAY = 0.03
"""What an entry's score loses for each step at first: a factor e of its weight in 33 steps."""


class KNNState(NamedTuple):
    """Per row a ring of entries: position p lies in slot p modulo the ring's size; `written` counts the positions."""

    keys: Float[Tensor, "batch groups ring word"]
    values: Float[Tensor, "batch groups ring word"]
    written: Int[Tensor, " batch"]


class KNNMemory(LayerMemory):
    """The `capacity` keys and values that left the window last, first in, first out, in each row for itself.

    A query at position t sees the window, t - window + 1 to t, and the `top_k` best of the `capacity` positions before
    it, in one softmax or, as in the paper, in two with a gate (`integration.py`). Keys are compared without rotation,
    as what is far away should be found by what it is. The ring has `window` entries to spare, so that a whole chunk can
    be written before it is read: each query's own range is told by positions, and results don't depend on how a
    sequence is cut. A key that isn't finite spoils the answers of the queries that see it, in its row and head, until
    it is forgotten.

    An `age_key` lets a head prefer what is newer: an entry's score is q·k - decay · age with a learned decay above 0
    and the steps since the query before it left the window, so that of m equal keys the newest counts, where without
    it each counts 1 / m. The best are sought by this score, so that old equals don't crowd out the newest. Near keys
    lose nothing, as the loss is 0 at the window's edge: in one softmax an old entry also yields to the window.

    Args:
        sizes: of the layer.
        capacity: entries a query can choose from.
        top_k: entries it attends to; all are exact neighbours.
        differentiable: whether gradients reach what was written, within one call of the model. The paper's memory is
            detached: its keys and values then learn from what is asked for within the window alone, and where nothing
            is (`task.local_queries=0`) recall is learned late or not at all.
        age_key: whether age counts.

    Raises:
        ValueError: unless 1 <= top_k <= capacity.
    """

    def __init__(
        self,
        sizes: Sizes,
        capacity: int = 1024,
        top_k: int = 8,
        differentiable: bool = True,
        age_key: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= capacity:
            raise ValueError(f"KNNMemory needs 1 <= top_k <= capacity, not top_k={top_k} and capacity={capacity}")
        self.capacity, self.top_k, self.differentiable = capacity, top_k, differentiable
        self.log_decay = nn.Parameter(torch.full((sizes.num_heads,), math.log(FIRST_DECAY))) if age_key else None
        self.register_buffer("empty", torch.zeros(sizes.num_key_heads, capacity + sizes.window, sizes.head_size), False)

    def initial_state(self, batch_size: int) -> KNNState:
        """Return empty rings."""
        empty = self.get_buffer("empty").expand(batch_size, -1, -1, -1)
        return KNNState(empty, empty, torch.zeros(batch_size, dtype=torch.long, device=empty.device))

    def write(
        self,
        state: KNNState,
        keys: Float[Tensor, "batch groups time word"],
        values: Float[Tensor, "batch groups time word"],
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
        """Return the top-k entries for every query: of those up to the last that left the window before it."""
        newest = window.leaving()[2] - 1
        oldest = (newest - self.capacity + 1).clamp_min(0)
        decay = None if self.log_decay is None else self.log_decay.exp()
        found = topk_address(window.query, state.keys, held_positions(state), oldest, newest, self.top_k, decay)
        return Found(*found, state.keys, state.values)

    def gauge(self, reading: Reading, state: KNNState) -> dict[str, Ratio]:
        """`filled`: share of the capacity in use. `found`: share of the `top_k` that there were entries for.

        `norm`: length of an entry's value. `decay`, with an age key: what a step costs, its mean over heads. Search is
        exact: of the best `top_k` none is missed.
        """
        filled = state.written.clamp_max(self.capacity) / self.capacity
        held = (held_positions(state) >= 0)[:, None].expand(state.values.shape[:3])
        told = {"filled": _share(filled), "found": _share(cast(Found, reading).scores > -torch.inf)}
        told["norm"] = mean_length(state.values, held)
        return told if self.log_decay is None else told | {"decay": _share(self.log_decay.detach().exp())}


def held_positions(state: KNNState) -> Int[Tensor, "batch ring"]:
    """Position of the entry in every slot; -1 where there is none yet."""
    newest = state.written[:, None] - 1
    held = newest - (newest - torch.arange(state.keys.shape[2], device=newest.device)) % state.keys.shape[2]
    return held.clamp_min(-1)


def _share(values: Tensor) -> Ratio:
    total = values.double().sum()
    return Ratio(total, torch.full_like(total, values.numel()))
