"""Copy: store a sequence of binary vectors, then reproduce it (NTM paper, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.bit_sequences import BitSequenceTask, as_logits, bit_batch, check_range


@dataclass(frozen=True, kw_only=True)
class Copy(BitSequenceTask):
    """Copy with one length per batch, drawn uniformly from `min_length` to `max_length`.

    ```
    step        0   1   2   |   3    4   5   6        length 3
    bits        a   b   c   |   .    .   .   .
    delimiter   .   .   .   |   1    .   .   .
    target                           a   b   c        counted where a letter stands
    ```
    """

    min_length: int = 1
    max_length: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("length", self.min_length, self.max_length)

    @property
    def spec(self) -> Spec:
        """Bits and a delimiter in, bits out."""
        return Spec("vectors", self.num_bits + 1, self.num_bits)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw one length and `batch_size` sequences of it."""
        random = self._random(split, index, seed)
        longest = self._longest(self.min_length, self.max_length, split, index)
        length = int(random.integers(self.min_length, longest + 1))
        bits = random.integers(0, 2, (batch_size, length, self.num_bits))
        inputs = np.zeros((batch_size, 2 * length + 1, self.num_bits + 1))
        inputs[:, :length, : self.num_bits] = bits
        inputs[:, length, self.num_bits] = 1
        return bit_batch(inputs, bits, length + 1)

    def oracle(self, batch: Batch) -> Tensor:
        """Repeat the vectors seen before the delimiter."""
        length = int(batch.inputs[0, :, self.num_bits].argmax())
        answer = torch.zeros_like(batch.targets)
        answer[:, length + 1 :] = batch.inputs[:, :length, : self.num_bits]
        return as_logits(answer)

    def at_length(self, length: int) -> Copy:
        """Return the task with every sequence `length` vectors long."""
        return replace(self, min_length=length, max_length=length, curriculum_batches=0)
