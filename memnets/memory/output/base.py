"""The contract of a memory behind a language model's head: explicit state, read, write, reset; and how it is mixed in.

An entry is what the head read at some step, and the word that followed. Of a step the memory recalls entries with a
score each, and gives word w the probability Σ exp(strength · score) over entries of w, divided by that over all:

```
p(w) = (1 - share) p_model(w) + share p_memory(w)
```
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.memory.slots.base import Memory


class Recalled(NamedTuple):
    """Entries that a memory recalls at each step.

    Attributes:
        scores: how near an entry is; -inf where there is none.
        words: what followed each entry; the same at all steps, or not.
    """

    scores: Float[Tensor, "batch time entries"]
    words: Int[Tensor, " batch #time entries"]

    @property
    def nothing(self) -> Bool[Tensor, "batch time"]:
        """Steps at which nothing is recalled."""
        return (self.scores == -torch.inf).all(-1)


class OutputMemory(Memory):
    """A memory asked by what a model's head reads, `hidden`; `words` are those that follow, one for each step."""

    @abstractmethod
    def read(self, hidden: Float[Tensor, "batch time hidden"], state: Any) -> Recalled:
        """What is recalled at each step, all of it from `state`."""

    def write(self, state: Any, hidden: Float[Tensor, "batch time hidden"], words: Int[Tensor, "batch time"]) -> Any:
        """State after these steps became entries. A memory that only serves writes nothing."""
        return state

    def forward(
        self, hidden: Float[Tensor, "batch time hidden"], words: Int[Tensor, "batch time"], state: Any
    ) -> tuple[Recalled, Any]:
        """Read and then write, step after step: no step recalls its own word, or a later one."""
        found = []
        for step in range(hidden.shape[1]):
            found.append(self.read(hidden[:, step : step + 1], state))
            state = self.write(state, hidden[:, step : step + 1], words[:, step : step + 1])
        return Recalled(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))), state


def log_probabilities(
    recalled: Recalled, strength: float, own: Float[Tensor, "batch time vocab"]
) -> Float[Tensor, "batch time vocab"]:
    """Log-probability of every word: -inf for one that is not recalled, and the model's own where nothing is."""
    weights = torch.where(recalled.nothing[..., None], 0.0, _logits(recalled, strength).softmax(-1))
    sums = torch.zeros_like(own).scatter_add(-1, recalled.words.expand_as(weights), weights)
    return torch.where(recalled.nothing[..., None], own, sums.log())


def log_probability_of(
    words: Int[Tensor, "batch time"], recalled: Recalled, strength: float, own: Float[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Log-probability of one word a step, as `log_probabilities` has it, without the others."""
    logits = _logits(recalled, strength)
    same = logits.masked_fill(recalled.words != words[..., None], -torch.inf)
    return torch.where(recalled.nothing, own, same.logsumexp(-1) - logits.logsumexp(-1))


def mix(parts: Sequence[Float[Tensor, "*shape"]], shares: Sequence[float]) -> Float[Tensor, "*shape"]:
    """Log of the mixture of probabilities that are given as logs. A share of 0 leaves a part out exactly.

    Raises:
        ValueError: the shares are negative, or don't sum to 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares of a mixture must not be negative and must sum to 1: {list(shares)}")
    pairs = zip(parts, shares, strict=True)
    return torch.stack([part + math.log(share) for part, share in pairs if share]).logsumexp(0)


def _logits(recalled: Recalled, strength: float) -> Float[Tensor, "batch time entries"]:
    """Scaled scores; strength 0 counts all entries alike, and still none that is not there."""
    return (strength * recalled.scores).masked_fill(recalled.scores == -torch.inf, -torch.inf)
