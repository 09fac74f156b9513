"""Sentences as memory slots: how Memory Networks embed and read them (Sukhbaatar et al. 2015, arXiv:1503.08895)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.ops.erase_add import read
from memnets.ops.memory_hops import PositionEncoding, centred_weights, position_weights
from memnets.streams import uniform

INIT_STD = 0.1
"""Standard deviation of the normal distribution that parameters start from (section 4.2)."""


def normal(*sizes: int) -> nn.Parameter:
    """Return a parameter drawn from the initial distribution."""
    return nn.Parameter(torch.randn(sizes) * INIT_STD)


class PaddedEmbedding(nn.Module):
    """Vectors of ids 1 to `num_ids` - 1. Id 0 is padding: its vector is zero and no parameter, so it cannot learn."""

    def __init__(self, num_ids: int, embedding_size: int) -> None:
        super().__init__()
        self.weight = normal(num_ids - 1, embedding_size)

    def table(self) -> Float[Tensor, "ids embedding"]:
        """Return the vectors of all ids, padding's zeros first."""
        return F.pad(self.weight, (0, 0, 1, 0))

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape embedding"]:
        """Look ids up."""
        return F.embedding(ids, self.table())


class SentenceEmbedding(nn.Module):
    """One matrix A (or B, C) of the network, and with `max_age` its temporal encoding T_A (section 4.1).

    Args:
        num_words: size of the vocabulary with padding.
        embedding_size: width of a slot, d in the paper.
        position_encoding: what weighs words by where they stand; `none` is a bag of words.
        max_age: age from which on sentences are told apart no longer; 0 encodes no time.
        most_words: of the longest sentence, for the position encoding `centred`.
    """

    def __init__(
        self,
        num_words: int,
        embedding_size: int,
        position_encoding: PositionEncoding,
        max_age: int = 0,
        most_words: int = 0,
    ) -> None:
        super().__init__()
        self.words = PaddedEmbedding(num_words, embedding_size)
        self.position_encoding = position_encoding
        self.ages = PaddedEmbedding(max_age + 1, embedding_size) if max_age else None
        self.max_age = max_age
        self.most_words = most_words

    def forward(self, sentences: Int[Tensor, "batch *sentences words"]) -> Float[Tensor, "batch *sentences embedding"]:
        """Σ_j l_j · A x_j, with l_j = 1 for a bag of words: time is not encoded."""
        embedded = self.words(sentences)
        if self.position_encoding != "none":
            kind, size = self.position_encoding, embedded.shape[-1]
            embedded = embedded * position_weights(sentences, size, embedded.dtype, kind, self.most_words)
        return embedded.sum(-2)

    def slots(
        self, story: Int[Tensor, "batch sentences words"], age: Int[Tensor, "batch sentences"]
    ) -> Float[Tensor, "batch sentences embedding"]:
        """m_i = Σ_j l_j · A x_ij + T_A(age of sentence i)."""
        slots, times = self(story), self.times()
        return slots if times is None else slots + F.embedding(age.clamp(max=self.max_age), times)

    def times(self) -> Float[Tensor, "ages embedding"] | None:
        """T_A of all ages from 0, whose vector is zero, as slots have them."""
        if self.ages is None:
            return None
        return self.weigh_times(self.ages.table())

    def weigh_times(self, vectors: Float[Tensor, "*shape embedding"]) -> Float[Tensor, "*shape embedding"]:
        """Vectors of time as slots have them: `centred` weighs them like the word after the last."""
        if self.position_encoding != "centred":
            return vectors
        last = torch.tensor([self.most_words + 1.0], dtype=vectors.dtype, device=vectors.device)
        return vectors * centred_weights(last, vectors.shape[-1], self.most_words)


def is_told(story: Int[Tensor, "batch sentences words"]) -> Bool[Tensor, "batch sentences"]:
    """Which slots hold a sentence."""
    return (story != 0).any(-1)


def ages(story: Int[Tensor, "batch sentences words"]) -> Int[Tensor, "batch sentences"]:
    """Age of each sentence: 1 for the newest, rising towards the oldest; 0 in the empty slots after the newest."""
    numbers = torch.arange(1, story.shape[1] + 1, device=story.device)
    newest = (is_told(story) * numbers).amax(dim=1, keepdim=True)
    return (newest - numbers + 1).clamp(min=0)


def ages_among_blanks(age: Int[Tensor, "batch sentences"], random_noise: float) -> Int[Tensor, "batch sentences"]:
    """Ages as they would be, had empty memories been told among the sentences at random places (section 4.1).

    Each story of n sentences gets 0 to ⌈random_noise · n⌉ of them, as in the authors' code: its ages, in order, are a
    random n of the first n + that many. An empty memory has no weight, so that nothing of it but the ages is seen, and
    no sentence has to make room.
    """
    count = age.amax(dim=1, keepdim=True)
    most_blanks = (count * random_noise).ceil()
    blanks = (uniform(age, 1) * (most_blanks + 1)).floor().clamp(max=most_blanks)
    places = torch.arange(1, age.shape[1] + math.ceil(age.shape[1] * random_noise) + 1, device=age.device)
    draws = uniform(age, len(places)).masked_fill(places > count + blanks, 2.0)
    taken = draws.argsort(dim=1).argsort(dim=1) < count
    ordered = torch.where(taken, places, len(places) + 1).sort(dim=1).values
    return torch.where(age > 0, ordered.gather(1, (age - 1).clamp(min=0)), 0)


def hop(
    query: Float[Tensor, "batch embedding"],
    keys: Float[Tensor, "batch sentences embedding"],
    values: Float[Tensor, "batch sentences embedding"],
    told: Bool[Tensor, "batch sentences"],
    weigh: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Float[Tensor, "batch embedding"], Float[Tensor, "batch sentences"]]:
    """Read o = Σ_i p_i c_i (equation 2) with weights p (equation 1) over the slots that are told.

    `weigh` makes the weights: an `AttentionScore`, or its `linear`. Returns what was read and the weights p. With no
    slot told both are zero.
    """
    weights = weigh(query, keys, told)
    return read(values, weights[:, None]).squeeze(1), weights
