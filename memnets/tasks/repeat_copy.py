"""Repeat copy: reproduce a sequence a given number of times, then say that it ends (NTM paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.base import Task
from memnets.tasks.bit_sequences import BitSequenceTask, as_logits, bit_batch, check_range


@dataclass(frozen=True, kw_only=True)
class RepeatCopy(BitSequenceTask):
    """Repeat copy with one length and one number of repeats per batch, each drawn uniformly from its range.

    ```
    step        0   1   |   2    3   4   5   6   7        length 2, 2 repeats
    bits        a   b   |   .    .   .   .   .   .
    delimiter   .   .   |   1    .   .   .   .   .
    count       .   .   |  z(2)  .   .   .   .   .        z: mean 0, variance 1 over min_repeats to max_repeats
    target                       a   b   a   b   .        counted from step 3 on
    end marker                   .   .   .   .   1        one more output bit
    ```

    Attributes:
        num_repeats: repeat exactly so often; the count stays normalised by the range. None draws from the range.
        test_repeats: numbers of repeats of the extra test sets `repeats_<n>`.
    """

    min_length: int = 1
    max_length: int = 10
    min_repeats: int = 1
    max_repeats: int = 10
    num_repeats: int | None = None
    test_repeats: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("length", self.min_length, self.max_length)
        check_range("repeats", self.min_repeats, self.max_repeats)
        if self.num_repeats is not None and self.num_repeats < 1:
            raise ValueError(f"num_repeats must be at least 1, or null to draw from the range, not {self.num_repeats}")

    @property
    def spec(self) -> Spec:
        """Bits, a delimiter and the count in; bits and the end marker out."""
        return Spec("vectors", self.num_bits + 2, self.num_bits + 1)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw one length, one number of repeats, and `batch_size` sequences of them."""
        random = self._random(split, index, seed)
        length = int(
            random.integers(self.min_length, self._longest(self.min_length, self.max_length, split, index) + 1)
        )
        repeats = self._draw_repeats(random, split, index)
        bits = random.integers(0, 2, (batch_size, length, self.num_bits))
        inputs = np.zeros((batch_size, length * (repeats + 1) + 2, self.num_bits + 2))
        inputs[:, :length, : self.num_bits] = bits
        inputs[:, length, self.num_bits] = 1
        mean, deviation = self._count_scale()
        inputs[:, length, self.num_bits + 1] = (repeats - mean) / deviation
        targets = np.zeros((batch_size, length * repeats + 1, self.num_bits + 1))
        targets[:, :-1, : self.num_bits] = np.tile(bits, (1, repeats, 1))
        targets[:, -1, self.num_bits] = 1
        return bit_batch(inputs, targets, length + 1)

    def oracle(self, batch: Batch) -> Tensor:
        """Read the count at the delimiter, repeat the vectors seen before it so often, then set the end marker."""
        length = int(batch.inputs[0, :, self.num_bits].argmax())
        mean, deviation = self._count_scale()
        repeats = round(batch.inputs[0, length, self.num_bits + 1].item() * deviation + mean)
        end = length + 1 + length * repeats
        answer = torch.zeros_like(batch.targets)
        answer[:, length + 1 : end, : self.num_bits] = batch.inputs[:, :length, : self.num_bits].repeat(1, repeats, 1)
        answer[:, end, self.num_bits] = 1
        return as_logits(answer)

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself, one set per test length, and one per test number of repeats."""
        return super().test_sets() | {f"repeats_{repeats}": self.at_repeats(repeats) for repeats in self.test_repeats}

    def at_length(self, length: int) -> RepeatCopy:
        """Return the task with every sequence `length` vectors long, repeated as often as before."""
        return replace(self, min_length=length, max_length=length, curriculum_batches=0)

    def at_repeats(self, repeats: int) -> RepeatCopy:
        """Return the task with `repeats` repeats, which the model sees on the scale it was trained on."""
        return replace(self, num_repeats=repeats, curriculum_batches=0)

    def _draw_repeats(self, random: np.random.Generator, split: Split, index: int) -> int:
        if self.num_repeats is not None:
            return self.num_repeats
        most = self._longest(self.min_repeats, self.max_repeats, split, index)
        return int(random.integers(self.min_repeats, most + 1))

    def _count_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of a count drawn uniformly from the range; 1 where there is but one count."""
        num_counts = self.max_repeats - self.min_repeats + 1
        return (self.min_repeats + self.max_repeats) / 2, ((num_counts**2 - 1) / 12) ** 0.5 or 1.0
