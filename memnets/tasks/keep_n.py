"""Keep n: of a long stream keep the few vectors that are marked, free the rest: a long-range task for a DNC."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.bit_sequences import BitSequenceTask, as_logits, bit_batch, check_range, check_sizes


@dataclass(frozen=True, kw_only=True)
class KeepN(BitSequenceTask):
    """Recall of the `num_kept` marked vectors of a stream, one length per batch, from `min_length` to `max_length`.

    ```
    step        0   1   2   3   4   5   |   6    7   8        length 5, 2 kept, marked 1 step late
    bits        a   b   c   d   e   .   |   .    .   .
    mark        .   .   1   .   .   1   |   .    .   .        for b and e
    delimiter   .   .   .   .   .   .   |   1    .   .
    target                                       b   e        counted where a letter stands
    ```

    A mark that comes late makes a model write first and free what turns out unmarked: the stream may be far longer
    than its memory. With `mark_delay` 0 it need only write what is marked. Any steps may be marked, drawn for each
    sequence.

    Attributes:
        num_kept: marked vectors of a sequence.
        mark_delay: steps from a vector to its mark.
    """

    num_kept: int = 4
    min_length: int = 4
    max_length: int = 20
    mark_delay: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "num_kept")
        check_range("length", self.min_length, self.max_length)
        if self.mark_delay < 0:
            raise ValueError(f"mark_delay must be at least 0, not {self.mark_delay}")
        if self.num_kept > self.min_length:
            raise ValueError(
                f"num_kept={self.num_kept} must be at most min_length={self.min_length}: a stream holds all it keeps"
            )

    @property
    def spec(self) -> Spec:
        """Bits, a mark and a delimiter in, bits out."""
        return Spec("vectors", self.num_bits + 2, self.num_bits)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw one length, and `batch_size` streams of it with their marks."""
        random = self._random(split, index, seed)
        longest = self._longest(self.min_length, self.max_length, split, index)
        length = int(random.integers(self.min_length, longest + 1))
        bits = random.integers(0, 2, (batch_size, length, self.num_bits))
        kept = np.sort(random.random((batch_size, length)).argsort(axis=1)[:, : self.num_kept])
        end = length + self.mark_delay
        inputs = np.zeros((batch_size, end + 1 + self.num_kept, self.num_bits + 2))
        inputs[:, :length, : self.num_bits] = bits
        inputs[np.arange(batch_size)[:, None], kept + self.mark_delay, self.num_bits] = 1
        inputs[:, end, self.num_bits + 1] = 1
        return bit_batch(inputs, np.take_along_axis(bits, kept[..., None], axis=1), end + 1)

    def oracle(self, batch: Batch) -> Tensor:
        """Pick the vectors whose mark follows `mark_delay` steps later."""
        end = int(batch.inputs[0, :, self.num_bits + 1].argmax())
        bits = batch.inputs[:, : end - self.mark_delay, : self.num_bits]
        marked = batch.inputs[:, self.mark_delay : end, self.num_bits] > 0
        answer = torch.zeros_like(batch.targets)
        answer[:, end + 1 :] = bits[marked].view(batch.size, self.num_kept, self.num_bits)
        return as_logits(answer)

    def at_length(self, length: int) -> KeepN:
        """Return the task with every stream `length` vectors long, and as many kept."""
        return replace(self, min_length=length, max_length=length, curriculum_batches=0)
