"""Segmented recall: pairs bound in one segment are asked for in it, and two or more segments later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.tasks.base import Criterion, Task, generator, ratio

LOCAL, REMOTE = 1, 2
"""Groups of a batch: where a query asks for a pair of its own segment, and of one at least `gap` segments back."""


@dataclass(frozen=True, kw_only=True)
class SegmentedRecall(Task):
    """Key-value recall within and across segments. A key that comes again asks for its value, at that very step.

    ```
    segment   |------- 0 -------|------- 1 -------|------- 2 -------|     2 pairs per segment, gap 2
    token      A a B b . A . .   C c D d . . C .   E e F f . B F .        . is one of several fillers
    target               a                   c               b f          counted where a letter is
    group                L                   L               R L          local, remote
    ```

    Pairs lead every segment; keys differ within a sequence; queries stand at random steps after the pairs. Segments
    before number `gap` have no remote queries. Tokens: keys, then values, then fillers.

    Attributes:
        num_segments: segments of a sequence.
        segment_length: steps of a segment.
        num_keys: keys to draw from.
        num_values: values to draw from: the classes of the answer.
        num_fillers: tokens that mean nothing.
        pairs_per_segment: pairs bound in each segment.
        gap: fewest segments between a pair and a remote query.
        local_queries: queries per segment for one of its own pairs.
        remote_queries: queries per segment for a pair at least `gap` segments back.
        eval_sequences: sequences drawn for one evaluation.
        stream: training batch i is segment i % num_segments of sequence batch i // num_segments, for training that
            carries the state from step to step (`trainer.carry_state`). Evaluation sees whole sequences all the same.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "local_accuracy", "remote_accuracy")
    solved: ClassVar[Criterion | None] = Criterion("remote_accuracy", 0.95, "max")
    judges_places: ClassVar[bool] = True

    num_segments: int = 4
    segment_length: int = 16
    num_keys: int = 64
    num_values: int = 32
    num_fillers: int = 8
    pairs_per_segment: int = 2
    gap: int = 2
    local_queries: int = 2
    remote_queries: int = 2
    eval_sequences: int = 512
    stream: bool = False

    def __post_init__(self) -> None:
        sizes = ("num_values", "num_fillers", "pairs_per_segment", "gap", "remote_queries", "eval_sequences")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.local_queries < 0:
            raise ValueError(f"local_queries must be at least 0, not {self.local_queries}")
        if self.num_segments <= self.gap:
            raise ValueError(f"num_segments={self.num_segments} must exceed gap={self.gap}: nothing could be asked for")
        if self.num_keys < self.num_segments * self.pairs_per_segment:
            raise ValueError(
                f"num_keys={self.num_keys} is too few: the {self.num_segments} x {self.pairs_per_segment} keys of a "
                f"sequence differ"
            )
        if self.segment_length < 2 * self.pairs_per_segment + self.num_queries:
            raise ValueError(
                f"segment_length={self.segment_length} holds {self.pairs_per_segment} pairs (two steps each) and "
                f"{self.num_queries} queries only from {2 * self.pairs_per_segment + self.num_queries} on"
            )

    @property
    def num_queries(self) -> int:
        """Queries per segment of either kind."""
        return self.local_queries + self.remote_queries

    @property
    def spec(self) -> Spec:
        """Tokens in, values out."""
        return Spec("tokens", self.num_keys + self.num_values + self.num_fillers, self.num_values)

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_values

    @property
    def remote_distance(self) -> int:
        """Fewest steps from a value back in time from a remote query: what a window must not reach."""
        return self.gap * self.segment_length + 1

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw `batch_size` sequences; a segment of them in a training stream."""
        if not self.stream or split != "train":
            return self._draw(generator(seed, split, index), batch_size)
        sequences, segment = divmod(index, self.num_segments)
        whole = self._draw(generator(seed, split, sequences), batch_size)
        piece = list(whole.windows(self.segment_length))[segment]
        return replace(piece, starts=torch.full((batch_size,), segment == 0))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches in one evaluation."""
        return -(-self.eval_sequences // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the value in nats, summed over queries."""
        return F.cross_entropy(outputs[batch.mask].float(), batch.targets[batch.mask], reduction="sum")

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of right answers among all, local and remote queries."""
        assert batch.groups is not None
        right = (outputs.argmax(-1) == batch.targets).double()
        places = (batch.mask, batch.groups == LOCAL, batch.groups == REMOTE)
        return {name: ratio(right, where) for name, where in zip(self.metric_names, places, strict=True)}

    def oracle(self, batch: Batch) -> Tensor:
        """Look every token up among the pairs; what no pair binds gets some value. Of a stream, local queries only."""
        pairs = rearrange(batch.inputs, "b (s t) -> b s t", t=self.segment_length)[:, :, : 2 * self.pairs_per_segment]
        keys, tokens = rearrange(pairs, "b s (p two) -> two b (s p)", two=2)
        asked = (batch.inputs[:, :, None] == keys[:, None]).int().argmax(-1)
        values = (tokens - self.num_keys).gather(1, asked)
        return 20.0 * F.one_hot(values, self.num_values)

    def at_length(self, length: int) -> SegmentedRecall:
        """Return the task with `length` segments."""
        return replace(self, num_segments=length)

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        num_pairs, lead = self.pairs_per_segment, 2 * self.pairs_per_segment
        segments = (batch_size, self.num_segments)
        keys = _distinct(random, (batch_size,), self.num_keys, self.num_segments * num_pairs)
        values = random.integers(0, self.num_values, keys.shape)
        tokens = random.integers(0, self.num_fillers, (*segments, self.segment_length))
        tokens += self.num_keys + self.num_values
        tokens[:, :, 0:lead:2] = keys.reshape(*segments, num_pairs)
        tokens[:, :, 1:lead:2] = values.reshape(*segments, num_pairs) + self.num_keys
        places = lead + _distinct(random, segments, self.segment_length - lead, self.num_queries)
        pairs, groups = self._draw_queries(random, batch_size)
        targets, labels = np.zeros_like(tokens), np.zeros_like(tokens)
        rows = np.arange(batch_size)[:, None, None]
        fillers = np.take_along_axis(tokens, places, -1)
        np.put_along_axis(tokens, places, np.where(groups > 0, keys[rows, pairs], fillers), -1)
        np.put_along_axis(targets, places, np.where(groups > 0, values[rows, pairs], 0), -1)
        np.put_along_axis(labels, places, groups, -1)
        inputs, targets, labels = (rearrange(part, "b s t -> b (s t)") for part in (tokens, targets, labels))
        return Batch(*(torch.from_numpy(part) for part in (inputs, targets, labels > 0, labels)))

    def _draw_queries(self, random: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs asked for, counted over the sequence, and the queries' groups (0: none), `[batch segments queries]`."""
        shape = (batch_size, self.num_segments, self.num_queries)
        remote = np.arange(self.num_queries) >= self.local_queries
        segment = np.arange(self.num_segments)[:, None]
        choices = np.maximum(segment - self.gap + 1, 0)
        source = np.where(remote, random.integers(0, np.maximum(choices, 1), shape), segment)
        pairs = source * self.pairs_per_segment + random.integers(0, self.pairs_per_segment, shape)
        groups = np.where(remote, np.where(choices > 0, REMOTE, 0), LOCAL)
        return pairs, np.broadcast_to(groups, shape)


def _distinct(random: np.random.Generator, shape: tuple[int, ...], below: int, count: int) -> np.ndarray:
    """`count` different numbers from 0 to `below` - 1 for each entry of `shape`, in random order."""
    return random.random((*shape, below)).argsort(-1)[..., :count]
