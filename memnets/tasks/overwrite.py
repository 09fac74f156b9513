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
    segment   |------ 0 ------|------ 1 ------|------ 2 ------|------ 3 ------|     2 keys, 2 writes, gap 1
    token      A a B b . B . .  . . A c . . A .  B d . . B . A .  . . . . . A B .     . is one of several fillers
    target               b                  c            d   c              c d       counted where a letter is
    group                L                  L            L   R              R R       local, remote
    ```

    A key's segments are drawn from all but the last `gap`, its place among a segment's pairs anew for each segment, so
    that neither tells which value is the newest. A local query asks for the value just bound in its segment, a remote
    one for a key whose last binding is at least `gap` segments back. Queries are left out where there is no such key.

    A memory that finds all values of a key but can't tell their order answers `1 / num_writes` of the remote queries,
    and is stale at the others.

    Attributes:
        keys_per_sequence: keys that a sequence binds.
        num_writes: times each is bound, at most once in a segment.
    """

    metric_names: ClassVar[tuple[str, ...]] = (*RecallTask.metric_names, "stale_error")

    num_segments: int = 5
    keys_per_sequence: int = 4
    num_writes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "keys_per_sequence", "num_writes")
        if self.num_segments < self.gap + self.num_writes:
            raise ValueError(
                f"num_segments={self.num_segments} is too few: {self.num_writes} writes in different segments, the "
                f"last of them gap={self.gap} before a query, take {self.gap + self.num_writes}"
            )
        if self.num_keys < self.keys_per_sequence:
            raise ValueError(f"num_keys={self.num_keys} is too few for keys_per_sequence={self.keys_per_sequence}")
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
        """What stands where segments bind pairs, in order of time: keys and values; fillers too, which no one asks."""
        lead = rearrange(inputs, "b (s t) -> b s t", t=self.segment_length)[:, :, : 2 * self.keys_per_sequence]
        keys, tokens = rearrange(lead, "b s (p two) -> two b (s p)", two=2)
        return keys, tokens - self.num_keys

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        count, lead, segments = self.keys_per_sequence, 2 * self.keys_per_sequence, (batch_size, self.num_segments)
        keys = distinct(random, (batch_size,), self.num_keys, count)
        when = np.sort(distinct(random, keys.shape, self.num_segments - self.gap, self.num_writes))
        drawn = distinct(random, keys.shape, self.num_values, self.num_writes)
        writes = np.arange(self.num_segments)[:, None, None] == when[:, None]  # [batch segments keys writes]
        bound, values = writes.any(-1), (writes * drawn[:, None]).sum(-1)
        slots = 2 * distinct(random, segments, count, count)
        tokens = self._fillers(random, batch_size)
        for shift, content in enumerate((np.broadcast_to(keys[:, None], values.shape), values + self.num_keys)):
            old = np.take_along_axis(tokens, slots + shift, -1)
            np.put_along_axis(tokens, slots + shift, np.where(bound, content, old), -1)
        places = lead + distinct(random, segments, self.segment_length - lead, self.num_queries)
        asked, groups = self._draw_queries(random, bound, when[..., -1])
        answers = np.where(self._asks_remotely()[:, None], drawn[:, None, None, :, -1], values[:, :, None])
        rows = np.arange(batch_size)[:, None, None]
        answer = np.take_along_axis(answers, asked[..., None], -1)[..., 0]
        return ask(tokens, places, keys[rows, asked], answer, groups)

    def _draw_queries(
        self, random: np.random.Generator, bound: np.ndarray, last: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keys asked for, counted over the sequence's, and the queries' groups (0: none), `[batch segments queries]`.

        `bound [batch segments keys]`: what each segment binds; `last [batch keys]`: where a key is bound last.
        """
        due = last[:, None] + self.gap <= np.arange(self.num_segments)[:, None]
        remote = self._asks_remotely()[:, None]
        choices = np.where(remote, due[:, :, None], bound[:, :, None])
        asked = (random.random(choices.shape) * choices).argmax(-1)
        return asked, np.where(choices.any(-1), np.where(remote[:, 0], REMOTE, LOCAL), 0)
