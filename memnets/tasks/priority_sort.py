"""Priority sort: give the vectors of highest priority, in its order (NTM paper, section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.base import Criterion
from memnets.tasks.bit_sequences import BitSequenceTask, as_logits, bit_batch, check_sizes


@dataclass(frozen=True, kw_only=True)
class PrioritySort(BitSequenceTask):
    """Priority sort of `num_items` vectors, of which the first `num_outputs` of the sorted order are asked for.

    ```
    step        0    1    2    3   |   4    5   6   7        4 items, 3 outputs
    bits        a    b    c    d   |   .    .   .   .
    priority   .1   .9  -.4   .7   |   .    .   .   .        uniform from -1 to 1
    delimiter   .    .    .    .   |   1    .   .   .
    target                                  b   d   a        counted where a letter stands
    ```

    Equal priorities, rare as they are, keep the order in which they were shown. A curriculum grows the number of items
    from 1, with the outputs in proportion. Solved means 20 bits per sequence, the upper end of the 10 to 20 at which
    the paper's own curves end, in the paper's unit: no published model sorts without error.

    Attributes:
        num_items: vectors shown.
        num_outputs: vectors asked for.
    """

    solved: ClassVar[Criterion | None] = Criterion("bits", 20.0, "min")

    num_items: int = 20
    num_outputs: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "num_items", "num_outputs")
        if self.num_outputs > self.num_items:
            raise ValueError(f"num_outputs={self.num_outputs} must be at most num_items={self.num_items}")

    @property
    def spec(self) -> Spec:
        """Bits, a priority and a delimiter in, bits out."""
        return Spec("vectors", self.num_bits + 2, self.num_bits)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw `batch_size` sequences."""
        random = self._random(split, index, seed)
        num_items = self._longest(1, self.num_items, split, index)
        num_outputs = self._outputs_of(num_items)
        bits = random.integers(0, 2, (batch_size, num_items, self.num_bits))
        priorities = random.uniform(-1, 1, (batch_size, num_items)).astype(np.float32)  # sorted as the model sees them
        order = (-priorities).argsort(axis=1, kind="stable")[:, :num_outputs]
        inputs = np.zeros((batch_size, num_items + 1 + num_outputs, self.num_bits + 2))
        inputs[:, :num_items, : self.num_bits] = bits
        inputs[:, :num_items, self.num_bits] = priorities
        inputs[:, num_items, self.num_bits + 1] = 1
        return bit_batch(inputs, np.take_along_axis(bits, order[..., None], axis=1), num_items + 1)

    def oracle(self, batch: Batch) -> Tensor:
        """Sort the vectors seen before the delimiter by their priorities."""
        num_items = int(batch.inputs[0, :, self.num_bits + 1].argmax())
        bits, priorities = batch.inputs[:, :num_items].split([self.num_bits, 2], dim=-1)
        order = priorities[..., :1].sort(dim=1, descending=True, stable=True).indices
        answer = torch.zeros_like(batch.targets)
        num_outputs = answer.shape[1] - num_items - 1
        answer[:, num_items + 1 :] = bits.take_along_dim(order[:, :num_outputs], dim=1)
        return as_logits(answer)

    def at_length(self, length: int) -> PrioritySort:
        """Return the task with `length` items, and outputs in the same proportion, rounded, at least 1."""
        return replace(self, num_items=length, num_outputs=self._outputs_of(length), curriculum_batches=0)

    def _outputs_of(self, num_items: int) -> int:
        return max(1, round(num_items * self.num_outputs / self.num_items))
