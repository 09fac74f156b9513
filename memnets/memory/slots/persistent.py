"""Persistent memory: learned keys and values in every head (Sukhbaatar et al. 2019, arXiv:1907.01470)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import LayerMemory, Reading, Sizes, Slots, Window, mean_length, unit_length


class PersistentMemory(LayerMemory):
    """`num_slots` learned key-values per head; the paper has them in one softmax with the window (equations 6 to 8).

    They can take over what a feed-forward layer does: `model.feed_forward_size=null` leaves the all-attention network.

    Raises:
        ValueError: num_slots is below 1.
    """

    def __init__(self, sizes: Sizes, num_slots: int = 16) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"PersistentMemory.num_slots must be at least 1, not {num_slots}")
        # A key without a position has only the half of a head that carries none (see `rotary.place_free`).
        self.keys = nn.Parameter(torch.randn(sizes.num_key_heads, num_slots, sizes.head_size - sizes.head_size // 2))
        self.values = nn.Parameter(torch.randn(sizes.num_key_heads, num_slots, sizes.head_size) * num_slots**-0.5)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: what is remembered is learned."""
        return ()

    def read(self, window: Window, state: Any) -> Slots:
        """Return the learned slots, the same for every row and query."""
        keys = unit_length(self.keys)
        missing = self.values.shape[-1] - keys.shape[-1]
        whole = torch.cat([keys.new_zeros(*keys.shape[:2], missing), keys], dim=-1)
        return Slots(whole[None], self.values[None])

    def gauge(self, reading: Reading, state: Any) -> dict[str, Ratio]:
        """`norm`: length of a slot's value."""
        return {"norm": mean_length(self.values)}
