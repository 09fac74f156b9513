"""The cache of Transformer-XL (Dai et al. 2019, arXiv:1901.02860): keys and values of the segments before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.contracts import Ratio
from memnets.memory.rotary import Rotary
from memnets.memory.slots.base import LayerMemory, Reading, Sizes, Slots, Window, mean_length


class SegmentCacheState(NamedTuple):
    """What left the window last, oldest first; of what is not there yet, zeros. `written` counts the entries."""

    keys: Float[Tensor, "batch groups capacity word"]
    values: Float[Tensor, "batch groups capacity word"]
    written: Int[Tensor, " batch"]


class SegmentCache(LayerMemory):
    """The `capacity` keys and values that left the window last, all of them attended to, with their positions.

    A window that is longer, but for the gradient: it ends at the window, as in the paper, unless `differentiable`. As
    each layer's cache holds what the layer below had read, what is seen grows by `capacity` with every layer. The paper
    caches whole segments; here the cache slides with the window, so that results don't depend on where a text is cut.
    A key or value that isn't finite spoils what sees it, in its row and head, until it is forgotten.

    Raises:
        ValueError: capacity is below 1.
    """

    def __init__(self, sizes: Sizes, capacity: int = 64, differentiable: bool = False) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"SegmentCache.capacity must be at least 1, not {capacity}")
        self.capacity, self.differentiable = capacity, differentiable
        self.rotary = Rotary(sizes.head_size)
        self.register_buffer("empty", torch.zeros(sizes.num_key_heads, capacity, sizes.head_size), False)

    def initial_state(self, batch_size: int) -> SegmentCacheState:
        """Nothing has left the window yet."""
        empty = self.get_buffer("empty").expand(batch_size, -1, -1, -1)
        return SegmentCacheState(empty, empty, torch.zeros(batch_size, dtype=torch.long, device=empty.device))

    def forward(self, window: Window, state: SegmentCacheState) -> tuple[Slots, SegmentCacheState]:
        """Return the cache and what leaves the window during the chunk; a query sees its own `capacity` of them."""
        keys, values, positions = window.leaving()
        if not self.differentiable:
            keys, values = keys.detach(), values.detach()
        keys, values = torch.cat([state.keys, keys], dim=2), torch.cat([state.values, values], dim=2)
        oldest = window.before - (window.size - 1) - self.capacity
        visible = self._visible(positions)
        after = SegmentCacheState(
            keys[:, :, -self.capacity :], values[:, :, -self.capacity :], (positions[:, -1] + 1).clamp_min(0)
        )
        return Slots(self.rotary(keys, oldest), values, visible), after

    def gauge(self, reading: Reading, state: SegmentCacheState) -> dict[str, Ratio]:
        """`usage`: the share of the cache that holds anything. `norm`: length of an entry's value."""
        full = torch.full_like(state.written, self.capacity).double().sum()
        place = torch.arange(self.capacity, device=state.written.device)
        held = (place >= self.capacity - state.written[:, None])[:, None].expand(state.values.shape[:3])
        usage = Ratio(state.written.clamp_max(self.capacity).double().sum(), full)
        return {"usage": usage, "norm": mean_length(state.values, held)}

    def _visible(self, positions: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time slots"]:
        """Entry i of the cache and the chunk's leaving ones lies `capacity` before leaving entry i."""
        time = positions.shape[1]
        entry = torch.arange(self.capacity + time, device=positions.device)
        query = torch.arange(time, device=positions.device)[:, None]
        held = positions[:, :1] - self.capacity + entry
        return ((entry >= query) & (entry < query + self.capacity)) & (held >= 0)[:, None]
