"""What was retrieved for a sequence, as a Transformer's memory: each query attends to the items of its row's Block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.memory.slots.base import Gathered, LayerMemory, Sizes, Window, unit_length

FIRST_RELEVANCE = 3.0
"""Where a head's multiple of relevance begins; the same as for readers that answer at once."""


class RetrievedState(NamedTuple):
    """The items of a Block: nothing is written here, so whoever calls the model hands them in as its state."""

    vectors: Float[Tensor, "batch items item"]
    mask: Bool[Tensor, "batch items"]
    scores: Float[Tensor, "batch items"]


class RetrievedMemory(LayerMemory):
    """softmax(s · q̂ k̂ᵀ + r · relevance) v, over keys and values made of the items; r is learned for each head.

    Items are a set: queries come without their positions. Padding has no weight; of nothing, zeros are read.

    Args:
        sizes: of the layer.
        item_size: width of an item.
    """

    reads = "vectors"

    def __init__(self, sizes: Sizes, item_size: int) -> None:
        super().__init__()
        self.item_size, self.num_heads = item_size, sizes.num_heads
        self.key, self.value = (nn.Linear(item_size, sizes.d_model, bias=False) for _ in range(2))
        self.relevance = nn.Parameter(torch.full((sizes.num_heads, 1, 1), FIRST_RELEVANCE))

    def initial_state(self, batch_size: int) -> RetrievedState:
        """Nothing was retrieved."""
        vectors = self.key.weight.new_zeros(batch_size, 0, self.item_size)
        return RetrievedState(vectors, torch.zeros_like(vectors[..., 0], dtype=torch.bool), vectors[..., 0])

    def reset(self, state: RetrievedState, where: Bool[Tensor, " batch"]) -> RetrievedState:
        """Return the state: what is retrieved changes only by being handed in anew."""
        return state

    def read(self, window: Window, state: RetrievedState) -> Gathered:
        """Return what each head of each query reads, by which weights."""
        keys, values = (self._heads(project, state.vectors) for project in (self.key, self.value))
        scores = window.query @ unit_length(keys).mT + self.relevance * state.scores[:, None, None]
        told = state.mask[:, None, None]
        least = torch.finfo(scores.dtype).min
        weights = torch.softmax(scores.masked_fill(~told, least), dim=-1) * told
        items = torch.arange(weights.shape[-1], device=weights.device).expand_as(weights)
        return Gathered(weights @ values, weights, items)

    def _heads(self, project: nn.Module, items: Tensor) -> Float[Tensor, "batch heads items word"]:
        return rearrange(project(items), "b n (h w) -> b h n w", h=self.num_heads)
