"""Key-value recall: bind values to keys, wait, then answer keys with their values: a long-range task for a DNC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.base import Task
from memnets.tasks.bit_sequences import (
    BitSequenceTask,
    as_logits,
    bit_batch,
    check_range,
    check_sizes,
    distinct_vectors,
)


@dataclass(frozen=True, kw_only=True)
class KeyValueRecall(BitSequenceTask):
    """Key-value recall with one number of pairs and one gap per batch, each drawn uniformly from its range.

    ```
    step      0   1   2   |   3   4   |   5   6   7        3 pairs, gap 2
    key       a   b   c   |   .   .   |   b   c   a        in the gap: zeros, or random bits with `noise`
    value     x   y   z   |   .   .   |   .   .   .
    store     1   1   1   |   .   .   |   .   .   .
    query     .   .   .   |   .   .   |   1   1   1
    target                                y   z   x        counted where a letter stands
    ```

    The keys of a sequence differ; each is asked for once, in random order. Values have `num_bits` bits.

    Attributes:
        num_key_bits: bits of a key.
        min_gap: fewest steps between the last pair and the first query.
        max_gap: most such steps.
        noise: fill the gap with random keys and values that carry no `store` flag: a model must leave them alone.
        test_gaps: gaps of the extra test sets `gap_<n>`.
    """

    num_key_bits: int = 8
    min_pairs: int = 2
    max_pairs: int = 10
    min_gap: int = 0
    max_gap: int = 20
    noise: bool = False
    test_gaps: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "num_key_bits")
        check_range("pairs", self.min_pairs, self.max_pairs)
        if not 0 <= self.min_gap <= self.max_gap:
            raise ValueError(f"min_gap and max_gap must satisfy 0 <= min <= max, not {self.min_gap} and {self.max_gap}")
        if 2**self.num_key_bits < 2 * self.max_pairs:
            raise ValueError(
                f"keys of {self.num_key_bits} bits are too few for {self.max_pairs} that differ: raise num_key_bits or "
                f"lower max_pairs (half of all keys is the most)"
            )

    @property
    def spec(self) -> Spec:
        """Key, value and two flags in, a value out."""
        return Spec("vectors", self.num_key_bits + self.num_bits + 2, self.num_bits)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw one number of pairs and one gap, and `batch_size` sequences of them."""
        random = self._random(split, index, seed)
        most = self._longest(self.min_pairs, self.max_pairs, split, index)
        num_pairs = int(random.integers(self.min_pairs, most + 1))
        first_query = num_pairs + int(random.integers(self.min_gap, self.max_gap + 1))
        keys = distinct_vectors(random, batch_size, num_pairs, self.num_key_bits)
        values = random.integers(0, 2, (batch_size, num_pairs, self.num_bits))
        asked = random.random((batch_size, num_pairs, 1)).argsort(axis=1)
        inputs = np.zeros((batch_size, first_query + num_pairs, self.spec.input_size))
        inputs[:, :num_pairs, :-2] = np.concatenate([keys, values], axis=-1)
        if self.noise:
            gap = inputs[:, num_pairs:first_query, :-2]
            gap[:] = random.integers(0, 2, gap.shape)
        inputs[:, first_query:, : self.num_key_bits] = np.take_along_axis(keys, asked, axis=1)
        inputs[:, :num_pairs, -2] = 1
        inputs[:, first_query:, -1] = 1
        return bit_batch(inputs, np.take_along_axis(values, asked, axis=1), first_query)

    def oracle(self, batch: Batch) -> Tensor:
        """Look every query up among the stored keys."""
        num_pairs = int(batch.inputs[0, :, -2].sum())
        keys, values, _ = batch.inputs[:, :num_pairs].split([self.num_key_bits, self.num_bits, 2], dim=-1)
        queries = batch.inputs[:, -num_pairs:, : self.num_key_bits]
        asked = (queries[:, :, None] == keys[:, None]).all(-1).int().argmax(-1, keepdim=True)
        answer = torch.zeros_like(batch.targets)
        answer[:, -num_pairs:] = values.take_along_dim(asked, dim=1)
        return as_logits(answer)

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself, one set per test length, and one per test gap."""
        return super().test_sets() | {f"gap_{gap}": self.at_gap(gap) for gap in self.test_gaps}

    def at_length(self, length: int) -> KeyValueRecall:
        """Return the task with `length` pairs in every sequence."""
        return replace(self, min_pairs=length, max_pairs=length, curriculum_batches=0)

    def at_gap(self, gap: int) -> KeyValueRecall:
        """Return the task with `gap` steps between pairs and queries."""
        return replace(self, min_gap=gap, max_gap=gap, curriculum_batches=0)
