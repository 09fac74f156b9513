"""Product-key memory: many learned values, of which each query finds a few (Lample et al. 2019, arXiv:1907.05242)."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import Gathered, LayerMemory, Reading, Sizes, Window
from memnets.ops.product_key import product_key_address, weighted_gather


class ProductKeyMemory(LayerMemory):
    """Σ_heads Σ_j softmax(scores)_j value_j over each head's `top_k` best of `num_slots` = side² keys (section 3.1).

    Every slot's key joins one of `side` half keys with one of `side` others, so that the exact best of all are found
    with 2 · side products (section 3.2). A head has queries and half keys of its own; the values are common to all.
    Only the slots that were chosen learn. Nothing is remembered: with `model.share_memory`, one memory serves several
    layers (Berges et al. 2024, arXiv:2412.09764).

    Queries are normalised over their own numbers, head by head (layer normalisation): the paper's batch normalisation
    would mix rows and steps, and let a query see later ones. `usage` and `usage_divergence` tell whether keys lie idle.

    The gradient of the values is dense, as large as they are, and is made for every chunk that is read: give a large
    memory a large `model.window`.

    Args:
        sizes: of the layer.
        num_slots: values, each d_model wide: a square number.
        top_k: slots a head reads.
        num_heads: of the memory, whatever the attention has.
        key_size: width of a head's queries and keys, an even number; None: half of d_model, as in the paper.

    Raises:
        ValueError: num_slots isn't a square number, top_k not between 1 and its root, num_heads below 1, or key_size
            not an even number of at least 2.
    """

    reads = "vectors"

    def __init__(
        self, sizes: Sizes, num_slots: int = 4096, top_k: int = 32, num_heads: int = 4, key_size: int | None = None
    ) -> None:
        super().__init__()
        side = root_of(num_slots)
        key_size = sizes.d_model // 2 if key_size is None else key_size
        _check(side, top_k, num_heads, key_size)
        self.num_slots, self.top_k, self.num_heads, self.attention_heads = num_slots, top_k, num_heads, sizes.num_heads
        self.query = nn.Linear(sizes.d_model, num_heads * key_size)
        self.norm = nn.LayerNorm(key_size)
        self.half_keys = nn.Parameter(torch.randn(num_heads, 2, side, key_size // 2) * key_size**-0.5)  # scores ~ 1
        self.values = nn.Parameter(torch.randn(num_slots, sizes.d_model) * sizes.d_model**-0.5)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: what is remembered is learned."""
        return ()

    def read(self, window: Window, state: Any) -> Gathered:
        """Return what the chunk's queries find, and where; each is asked by its own step alone."""
        rows = rearrange(self.query(window.hidden), "b t (h w) -> (b t) h w", h=self.num_heads)
        scores, slots = product_key_address(self.norm(rows), self.half_keys, self.top_k)
        weights = scores.softmax(-1)
        # All heads' choices in one sum: their vectors are never written apart.
        together = (rearrange(part, "r h k -> r 1 (h k)") for part in (weights, slots))
        vectors = weighted_gather(self.values, *together)
        time, heads = window.hidden.shape[1], self.attention_heads
        return Gathered(
            rearrange(vectors, "(b t) 1 (h w) -> b h t w", t=time, h=heads),
            rearrange(weights, "(b t) h k -> b h t k", t=time),
            rearrange(slots, "(b t) h k -> b h t k", t=time),
        )

    def gauge(self, reading: Reading, state: Any) -> dict[str, Ratio]:
        """`usage`: the share of slots that the chunk chose at all (section 4.4), at most its choices / num_slots.

        `usage_divergence`: KL(share of all weights that each slot got || 1 / num_slots), in nats: 0 where all get the
        same, log(num_slots) where one gets all. Both are means over chunks; one of few queries leaves much idle.
        """
        assert isinstance(reading, Gathered)
        slots, weights = reading.indices.flatten(), reading.weights.detach().double().flatten()
        mass = weights.new_zeros(self.num_slots).index_add(0, slots, weights)
        divergence = math.log(self.num_slots) - torch.special.entr(mass / mass.sum()).sum()
        chosen = torch.bincount(slots, minlength=self.num_slots).count_nonzero().double()
        return {
            "usage": Ratio(chosen, torch.full_like(chosen, self.num_slots)),
            "usage_divergence": Ratio(divergence, torch.ones_like(divergence)),
        }


def root_of(num_slots: int) -> int:
    """Return the side of a square of slots.

    Raises:
        ValueError: there is no such square; the nearest are named.
    """
    side = math.isqrt(max(num_slots, 0))
    if num_slots < 1 or side * side != num_slots:
        near = f"{side**2} or {(side + 1) ** 2}" if num_slots > 1 else "1"
        raise ValueError(f"ProductKeyMemory.num_slots must be a square number such as {near}, not {num_slots}")
    return side


def _check(side: int, top_k: int, num_heads: int, key_size: int) -> None:
    if not 1 <= top_k <= side:
        raise ValueError(
            f"ProductKeyMemory.top_k must be between 1 and {side}, the root of num_slots={side * side}, not {top_k}"
        )
    if num_heads < 1:
        raise ValueError(f"ProductKeyMemory.num_heads must be at least 1, not {num_heads}")
    if key_size < 2 or key_size % 2:
        raise ValueError(f"ProductKeyMemory.key_size must be an even number of at least 2, not {key_size}")
