"""Overwrite: keys are bound again and again, and the newest value counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from memnets.contracts import Batch, Ratio
from memnets.tasks.base import distinct, ratio
from memnets.tasks.recall import LOCAL, REMOTE, RecallTask, ask
from memnets.tasks.token_sequences import as_scores, check_least


@dataclass(frozen=True, kw_only=True)
class Overwrite(RecallTask):
    """Recall across segments of keys that are bound `num_writes` times, to another value each time.

    ```
    segment   |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|--- 4 ---|--- 5 ---|     1 key (A), 2 writes, gap 2
    token      C c . C . A a . . A D d . D . A b . A . E e . E . F f A . F      . is one of several fillers
    target           c         a       d         b           e       b   f      counted where a letter is
    group            L         L       L         L           L       R   L      local, remote
    ```

    Every segment binds `keys_per_sequence` pairs: those of the keys that are written there, the others of keys bound
    this once. A key's writes are at least `gap` segments apart, the first not in segment 0. So whoever sees one
    segment's length back sees the same kind of text at every write, and can't tell the first from the last by it: what
    tells them apart is a sense of time in the memory.

    A local query asks for a value just bound in its segment, a remote one for a key whose last write is at least `gap`
    segments back; it is left out where there is none.

    A memory that finds all values of a key but can't tell their order answers `1 / num_writes` of the remote queries,
    and is stale at the others.

    Attributes:
        keys_per_sequence: keys that are written `num_writes` times; and pairs that a segment binds.
        num_writes: times each is bound.
    """

    metric_names: ClassVar[tuple[str, ...]] = (*RecallTask.metric_names, "stale_error")

    num_segments: int = 7
    keys_per_sequence: int = 2
    num_writes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "keys_per_sequence", "num_writes")
        if self.num_segments < (least := 2 + self.num_writes * self.gap):
            raise ValueError(
                f"num_segments={self.num_segments} is too few: {self.num_writes} writes, gap={self.gap} apart and "
                f"before a query, and a segment before them take {least}"
            )
        if self.num_keys < (least := self.keys_per_sequence * (1 + self.num_segments)):
            raise ValueError(
                f"num_keys={self.num_keys} is too few: keys_per_sequence={self.keys_per_sequence}, and as many others "
                f"in each of {self.num_segments} segments, take {least}"
            )
        if self.num_values < self.num_writes:
            raise ValueError(f"num_values={self.num_values} is too few: the {self.num_writes} values of a key differ")
        self.check_room(self.keys_per_sequence)

    @property
    def chance(self) -> dict[str, float]:
        """Any value is as likely as another; `num_writes` - 1 of them are stale."""
        return super().chance | {"stale_error": (self.num_writes - 1) / self.num_values}

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of right answers; `stale_error`: share of remote queries answered with an older value of their key.

        A stream's segment does not hold the older values, so that nothing counts there as stale or not.
        """
        assert batch.groups is not None
        keys, values = self._pairs(batch.inputs)
        same = batch.inputs[:, :, None] == keys[:, None]
        answered = same & (values[:, None] == outputs.argmax(-1)[:, :, None])
        stale = answered.any(-1) & (outputs.argmax(-1) != batch.targets)
        told = (batch.groups == REMOTE) & (same.sum(-1) == self.num_writes)
        return super().metrics(outputs, batch) | {"stale_error": ratio(stale.double(), told)}

    def oracle(self, batch: Batch) -> Tensor:
        """Look every token up among the pairs before it, the newest first. Of a stream, local queries only."""
        keys, values = self._pairs(batch.inputs)
        places = torch.arange(batch.inputs.shape[1]).view(-1, self.segment_length)[:, : 2 * self.keys_per_sequence : 2]
        earlier = places.flatten() < torch.arange(batch.inputs.shape[1])[:, None]
        bound = (batch.inputs[:, :, None] == keys[:, None]) & earlier
        newest = (bound * torch.arange(1, keys.shape[1] + 1)).argmax(-1)
        return as_scores(values.gather(1, newest).clamp(0, self.num_values - 1), self.num_values)

    def _pairs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What stands where segments bind pairs, in order of time: keys and values."""
        lead = rearrange(inputs, "b (s t) -> b s t", t=self.segment_length)[:, :, : 2 * self.keys_per_sequence]
        keys, tokens = rearrange(lead, "b s (p two) -> two b (s p)", two=2)
        return keys, tokens - self.num_keys

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        count, lead, segments = self.keys_per_sequence, 2 * self.keys_per_sequence, (batch_size, self.num_segments)
        drawn = distinct(random, (batch_size,), self.num_keys, count * (1 + self.num_segments))
        keys, others = drawn[:, :count], drawn[:, count:].reshape(*segments, count)
        when = self._draw_writes(random, keys.shape)
        written = distinct(random, keys.shape, self.num_values, self.num_writes)
        writes = np.arange(self.num_segments)[:, None, None] == when[:, None]  # [batch segments keys writes]
        bound = np.where(writes.any(-1), keys[:, None], others)
        values = random.integers(0, self.num_values, bound.shape)
        values = np.where(writes.any(-1), (writes * written[:, None]).sum(-1), values)
        slots = 2 * distinct(random, segments, count, count)
        tokens = self._fillers(random, batch_size)
        np.put_along_axis(tokens, slots, bound, -1)
        np.put_along_axis(tokens, slots + 1, values + self.num_keys, -1)
        places = lead + distinct(random, segments, self.segment_length - lead, self.num_queries)
        asked, groups = self._draw_queries(random, when[..., -1])
        remote = self._asks_remotely()[:, None]
        queries, answers = (
            np.take_along_axis(np.where(remote, far[:, None, None], near[:, :, None]), asked[..., None], -1)[..., 0]
            for far, near in ((keys, bound), (written[..., -1], values))
        )
        return ask(tokens, places, queries, answers, groups)

    def _draw_writes(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Segments of each key's writes, `[batch keys writes]`, in order: any with `gap` - 1 segments between two."""
        between = np.arange(self.num_writes) * (self.gap - 1)
        choices = self.num_segments - 1 - self.gap - int(between[-1])
        return 1 + between + np.sort(distinct(random, shape, choices, self.num_writes))

    def _draw_queries(self, random: np.random.Generator, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs or keys asked for, by their number, and the queries' groups (0: none), `[batch segments queries]`.

        `last [batch keys]`: segments of the last writes.
        """
        due = last[:, None] + self.gap <= np.arange(self.num_segments)[:, None]
        remote = self._asks_remotely()[:, None]
        choices = due[:, :, None] | ~remote
        asked = (random.random(choices.shape) * choices).argmax(-1)
        return asked, np.where(choices.any(-1), np.where(remote[:, 0], REMOTE, LOCAL), 0)
