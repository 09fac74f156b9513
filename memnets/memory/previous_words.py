"""A memory of the previous words, for every place of a text at once (Sukhbaatar et al. 2015, arXiv:1503.08895)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PreviousWords(NamedTuple):
    """Slots of all places of a text, each word embedded once however many places see it.

    Place t, from 0, sees `memory_size` words up to its own: in the text with what came before, words t to
    t + memory_size - 1. The oldest has age `memory_size`, the newest age 1.

    Attributes:
        keys: A x of every word, `words` = places + memory_size - 1.
        values: C x of every word.
        age_keys: T_A by age, oldest first.
        age_values: T_C by age, oldest first.
        told: which words there are: none before a text begins.
    """

    keys: Float[Tensor, "batch words embedding"]
    values: Float[Tensor, "batch words embedding"]
    age_keys: Float[Tensor, "slots embedding"]
    age_values: Float[Tensor, "slots embedding"]
    told: Bool[Tensor, "batch words"]

    def hop(
        self, query: Float[Tensor, "batch places embedding"]
    ) -> tuple[Float[Tensor, "batch places embedding"], Float[Tensor, "batch places slots"]]:
        """What each place reads, o = Σ_i p_i (C x_i + T_C(i)), and its weights p over its own slots, oldest first.

        p_i = Softmax(uᵀ (A x_i + T_A(i))) (equations 1 and 2, section 4.1); all 0 where no slot is told.
        """
        sees = self.slots_of_places(query.shape[1]).expand(len(query), -1, -1)
        scores = (query @ self.keys.mT).gather(2, sees) + query @ self.age_keys.T
        told = self.told[:, None].expand(-1, sees.shape[1], -1).gather(2, sees)
        weights = torch.softmax(scores.masked_fill(~told, torch.finfo(scores.dtype).min), dim=-1) * told
        among_words = weights.new_zeros(*sees.shape[:2], self.keys.shape[1]).scatter(2, sees, weights)
        return among_words @ self.values + weights @ self.age_values, weights

    def slots_of_places(self, num_places: int) -> Int[Tensor, "places slots"]:
        """Numbers of the words that each place sees."""
        first, after = (torch.arange(size, device=self.keys.device) for size in (num_places, len(self.age_keys)))
        return first[:, None] + after
