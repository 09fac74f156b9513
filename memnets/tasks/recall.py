"""What recall across segments shares: keys bound to values, asked for in their own segment and much later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec
from memnets.tasks.base import Criterion, ratio
from memnets.tasks.token_sequences import SegmentedTask, check_least

LOCAL, REMOTE = 1, 2
"""Groups of a batch: where a query asks for a pair of its own segment, and of one at least `gap` segments back."""


@dataclass(frozen=True, kw_only=True)
class RecallTask(SegmentedTask):
    """Tokens in, values out: a key that is no part of a pair asks for its value, at that very step.

    Pairs lead every segment; queries stand at random steps after them. Tokens: keys, then values, then fillers.

    Attributes:
        num_keys: keys to draw from.
        num_values: values to draw from: the classes of the answer.
        num_fillers: tokens that mean nothing.
        gap: fewest segments between a pair and a remote query.
        local_queries: queries per segment for one of its own pairs.
        remote_queries: queries per segment for a pair at least `gap` segments back.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "local_accuracy", "remote_accuracy")
    solved: ClassVar[Criterion | None] = Criterion("remote_accuracy", 0.95, "max")

    num_keys: int = 64
    num_values: int = 32
    num_fillers: int = 8
    gap: int = 2
    local_queries: int = 2
    remote_queries: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "num_values", "num_fillers", "gap", "remote_queries")
        check_least(self, 0, "local_queries")

    @property
    def num_queries(self) -> int:
        """Queries per segment of either kind."""
        return self.local_queries + self.remote_queries

    @property
    def spec(self) -> Spec:
        """Tokens in, values out."""
        return Spec("tokens", self.num_keys + self.num_values + self.num_fillers, self.num_values)

    @property
    def chance(self) -> dict[str, float]:
        """Any value is as likely as another."""
        return dict.fromkeys(RecallTask.metric_names, 1 / self.num_values)

    @property
    def remote_distance(self) -> int:
        """Fewest steps from a value back in time from a remote query: what a window must not reach."""
        return self.gap * self.segment_length + 1

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of right answers among all, local and remote queries."""
        assert batch.groups is not None
        right = (outputs.argmax(-1) == batch.targets).double()
        places = (batch.mask, batch.groups == LOCAL, batch.groups == REMOTE)
        return {name: ratio(right, where) for name, where in zip(RecallTask.metric_names, places, strict=True)}

    def check_room(self, num_pairs: int) -> None:
        """Refuse segments too short for `num_pairs` pairs and the queries.

        Raises:
            ValueError: with the least length.
        """
        least = 2 * num_pairs + self.num_queries
        if self.segment_length < least:
            raise ValueError(
                f"segment_length={self.segment_length} holds {num_pairs} pairs (two steps each) and "
                f"{self.num_queries} queries only from {least} on"
            )

    def _fillers(self, random: np.random.Generator, batch_size: int) -> np.ndarray:
        """Sequences of fillers alone, `[batch segments steps]`."""
        shape = (batch_size, self.num_segments, self.segment_length)
        return random.integers(0, self.num_fillers, shape) + self.num_keys + self.num_values

    def _asks_remotely(self) -> np.ndarray:
        """Which of a segment's queries are for remote pairs: the last ones."""
        return np.arange(self.num_queries) >= self.local_queries


def ask(tokens: np.ndarray, places: np.ndarray, keys: np.ndarray, values: np.ndarray, groups: np.ndarray) -> Batch:
    """Batch of `tokens` (`[batch segments steps]`, changed) with queries at `places`, answered by `values`.

    Places, keys, values and groups are `[batch segments queries]`. Group 0 is no query: the token stays.
    """
    targets, labels = np.zeros_like(tokens), np.zeros_like(tokens)
    np.put_along_axis(tokens, places, np.where(groups > 0, keys, np.take_along_axis(tokens, places, -1)), -1)
    np.put_along_axis(targets, places, np.where(groups > 0, values, 0), -1)
    np.put_along_axis(labels, places, groups, -1)
    inputs, targets, labels = (rearrange(part, "b s t -> b (s t)") for part in (tokens, targets, labels))
    return Batch(*(torch.from_numpy(part) for part in (inputs, targets, labels > 0, labels)))
