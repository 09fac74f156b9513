"""Associative recall: shown one of several items, give the item that followed it (NTM paper, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from memnets.contracts import Batch, Spec, Split
from memnets.tasks.bit_sequences import BitSequenceTask, as_logits, bit_batch, check_range, distinct_vectors

Steps = TypeVar("Steps", np.ndarray, Tensor)


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(BitSequenceTask):
    """Associative recall with one number of items per batch, drawn uniformly from `min_items` to `max_items`.

    ```
    step              0   1   2   3   4   5   6   7   8   |   9  10  11  12   |  13  14      3 items of 2 vectors,
    bits              .   a   a   .   b   b   .   c   c   |   .   b   b   .   |   .   .      b is asked for
    item delimiter    1   .   .   1   .   .   1   .   .   |   .   .   .   .   |   .   .
    query delimiter   .   .   .   .   .   .   .   .   .   |   1   .   .   1   |   .   .
    target                                                                        c   c      counted where a letter is
    ```

    The items of a sequence differ from one another; the query is any but the last, drawn for each sequence.

    Attributes:
        item_length: vectors of an item.
    """

    num_bits: int = 6
    item_length: int = 3
    min_items: int = 2
    max_items: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("items", self.min_items, self.max_items)
        if self.min_items < 2:
            raise ValueError("min_items must be at least 2: an item to ask for, and the one that follows it")
        if min(self.num_bits, self.item_length) < 1 or 2 ** (self.num_bits * self.item_length) < 2 * self.max_items:
            raise ValueError(
                f"items of {self.item_length} x {self.num_bits} bits are too few for {self.max_items} that differ: "
                f"raise item_length or num_bits, or lower max_items"
            )

    @property
    def spec(self) -> Spec:
        """Bits and two delimiters in, bits out."""
        return Spec("vectors", self.num_bits + 2, self.num_bits)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw one number of items, and `batch_size` sequences of so many with a query each."""
        random = self._random(split, index, seed)
        most = self._longest(self.min_items, self.max_items, split, index)
        num_items = int(random.integers(self.min_items, most + 1))
        drawn = distinct_vectors(random, batch_size, num_items, self.item_length * self.num_bits)
        items = rearrange(drawn, "b i (v w) -> b i v w", v=self.item_length)
        asked = random.integers(0, num_items - 1, batch_size)
        rows = np.arange(batch_size)
        first_answer = num_items * (self.item_length + 1) + self.item_length + 2
        inputs = np.zeros((batch_size, first_answer + self.item_length, self.num_bits + 2))
        shown = self._item_steps(inputs, num_items)
        shown[:, :, 0, self.num_bits] = 1
        shown[:, :, 1:, : self.num_bits] = items
        query = inputs[:, num_items * (self.item_length + 1) : first_answer]
        query[:, [0, -1], self.num_bits + 1] = 1
        query[:, 1:-1, : self.num_bits] = items[rows, asked]
        return bit_batch(inputs, items[rows, asked + 1], first_answer)

    def oracle(self, batch: Batch) -> Tensor:
        """Find the query among the items, answer with the next."""
        num_items = int(batch.inputs[0, :, self.num_bits].sum())
        items = self._item_steps(batch.inputs, num_items)[:, :, 1:, : self.num_bits]
        start = num_items * (self.item_length + 1) + 1
        query = batch.inputs[:, start : start + self.item_length, : self.num_bits]
        asked = (items == query[:, None]).flatten(2).all(-1).int().argmax(-1)
        answer = torch.zeros_like(batch.targets)
        answer[:, -self.item_length :] = items[torch.arange(batch.size), asked + 1]
        return as_logits(answer)

    def at_length(self, length: int) -> AssociativeRecall:
        """Return the task with `length` items in every sequence."""
        return replace(self, min_items=length, max_items=length, curriculum_batches=0)

    def _item_steps(self, inputs: Steps, num_items: int) -> Steps:
        """View of the steps that show items, `[batch items steps channels]`; each item's first is its delimiter."""
        shown = inputs[:, : num_items * (self.item_length + 1)]
        return rearrange(shown, "b (i s) c -> b i s c", i=num_items)
