"""Segmented recall: pairs bound in one segment are asked for in it, and two or more segments later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from einops import rearrange
from torch import Tensor

from memnets.contracts import Batch
from memnets.tasks.base import distinct
from memnets.tasks.recall import LOCAL, REMOTE, RecallTask, ask
from memnets.tasks.token_sequences import as_scores, check_least


@dataclass(frozen=True, kw_only=True)
class SegmentedRecall(RecallTask):
    """Key-value recall within and across segments. A key that comes again asks for its value, at that very step.

    ```
    segment   |------- 0 -------|------- 1 -------|------- 2 -------|     2 pairs per segment, gap 2
    token      A a B b . A . .   C c D d . . C .   E e F f . B F .        . is one of several fillers
    target               a                   c               b f          counted where a letter is
    group                L                   L               R L          local, remote
    ```

    Keys differ within a sequence. Segments before number `gap` have no remote queries.

    Attributes:
        pairs_per_segment: pairs bound in each segment.
    """

    judges_places: ClassVar[bool] = True

    pairs_per_segment: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "pairs_per_segment")
        if self.num_segments <= self.gap:
            raise ValueError(f"num_segments={self.num_segments} must exceed gap={self.gap}: nothing could be asked for")
        if self.num_keys < self.num_segments * self.pairs_per_segment:
            raise ValueError(
                f"num_keys={self.num_keys} is too few: the {self.num_segments} x {self.pairs_per_segment} keys of a "
                f"sequence differ"
            )
        self.check_room(self.pairs_per_segment)

    def oracle(self, batch: Batch) -> Tensor:
        """Look every token up among the pairs; what no pair binds gets some value. Of a stream, local queries only."""
        pairs = rearrange(batch.inputs, "b (s t) -> b s t", t=self.segment_length)[:, :, : 2 * self.pairs_per_segment]
        keys, tokens = rearrange(pairs, "b s (p two) -> two b (s p)", two=2)
        asked = (batch.inputs[:, :, None] == keys[:, None]).int().argmax(-1)
        return as_scores((tokens - self.num_keys).gather(1, asked), self.num_values)

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        num_pairs, lead = self.pairs_per_segment, 2 * self.pairs_per_segment
        segments = (batch_size, self.num_segments)
        keys = distinct(random, (batch_size,), self.num_keys, self.num_segments * num_pairs)
        values = random.integers(0, self.num_values, keys.shape)
        tokens = self._fillers(random, batch_size)
        tokens[:, :, 0:lead:2] = keys.reshape(*segments, num_pairs)
        tokens[:, :, 1:lead:2] = values.reshape(*segments, num_pairs) + self.num_keys
        places = lead + distinct(random, segments, self.segment_length - lead, self.num_queries)
        pairs, groups = self._draw_queries(random, batch_size)
        rows = np.arange(batch_size)[:, None, None]
        return ask(tokens, places, keys[rows, pairs], values[rows, pairs], groups)

    def _draw_queries(self, random: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs asked for, counted over the sequence, and the queries' groups (0: none), `[batch segments queries]`."""
        shape = (batch_size, self.num_segments, self.num_queries)
        remote, segment = self._asks_remotely(), np.arange(self.num_segments)[:, None]
        choices = np.maximum(segment - self.gap + 1, 0)
        source = np.where(remote, random.integers(0, np.maximum(choices, 1), shape), segment)
        pairs = source * self.pairs_per_segment + random.integers(0, self.pairs_per_segment, shape)
        groups = np.where(remote, np.where(choices > 0, REMOTE, 0), LOCAL)
        return pairs, np.broadcast_to(groups, shape)
