"""Dynamic n-grams: predict the next bit of a source that must be learned from the sequence (NTM paper, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.tasks.base import Criterion, ratio
from memnets.tasks.bit_sequences import BitTask, check_sizes, cost_in_bits

MAX_CONTEXT = 12
"""Longest context: counting takes memory in proportion to 2^context_size."""


@dataclass(frozen=True, kw_only=True)
class DynamicNGrams(BitTask):
    """Prediction of bits whose chances depend on the last `context_size` bits, by a table drawn for each sequence.

    ```
    step      0   1   2   3   4   5   6   7        contexts of 5 bits (6-grams), 4 steps
    input     a   b   c   d   e   f   g   h
    target                    f   g   h   i        counted where a letter stands
    ```

    The table holds the chance of a 1 after each of the 2^context_size contexts, each from Beta(1/2, 1/2). The first
    `context_size` bits are fair coins, not predicted; the target of a step is the bit that the next step shows. The
    200 bits count without these coins: so the optimum costs 131 bits on average, close to the 131 to 132 of the paper's
    figure; with the coins among the 200 it would cost 128.

    Attributes:
        num_steps: bits drawn from the table, all of them predicted.
        context_size: bits that the next one depends on.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("excess_bits", "bits", "optimal_bits")
    solved: ClassVar[Criterion | None] = Criterion("excess_bits", 2.0, "min")

    num_steps: int = 200
    context_size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "num_steps", "context_size")
        if self.context_size > MAX_CONTEXT:
            raise ValueError(f"context_size must be at most {MAX_CONTEXT}, not {self.context_size}: lower it")

    @property
    def spec(self) -> Spec:
        """A bit in, a bit out."""
        return Spec("vectors", 1, 1)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw a table and a sequence for each row."""
        bits = torch.from_numpy(self._draw(self._random(split, index, seed), batch_size)).float()[..., None]
        mask = torch.arange(bits.shape[1] - 1).ge(self.context_size - 1).repeat(batch_size, 1)
        return Batch(bits[:, :-1], bits[:, 1:] * mask[..., None], mask)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Bits per sequence beyond the optimum's, the model's, and the optimum's on the same sequences."""
        bits, optimal_bits = cost_in_bits(outputs, batch), cost_in_bits(self.oracle(batch), batch)
        return {"excess_bits": ratio(bits - optimal_bits), "bits": ratio(bits), "optimal_bits": ratio(optimal_bits)}

    def oracle(self, batch: Batch) -> Float[Tensor, "batch time 1"]:
        """Logits of the Bayesian optimum: `(N1 + 1/2) / (N1 + N0 + 1)` (equation 10), 0 before the first context.

        N1 and N0 count the ones and zeros that followed the step's context so far: what the Beta(1/2, 1/2) prior makes
        of the steps seen, the table itself being unknown.
        """
        bits = batch.inputs[..., 0]
        contexts = (bits.unfold(1, self.context_size, 1) * self._place_values().to(bits)).sum(-1).long()
        before, here = contexts[:, :-1], contexts[:, 1:, None]
        met = F.one_hot(before, 2**self.context_size).to(bits)
        outcomes = bits[:, self.context_size :, None]
        ones, zeros = ((met * each).cumsum(1).gather(2, here) for each in (outcomes, 1 - outcomes))
        logits = torch.zeros_like(batch.inputs)
        logits[:, self.context_size :] = (ones + 0.5).log() - (zeros + 0.5).log()
        return logits

    def at_length(self, length: int) -> DynamicNGrams:
        """Return the task with `length` predicted bits in every sequence."""
        return replace(self, num_steps=length)

    def _draw(self, random: np.random.Generator, batch_size: int) -> np.ndarray:
        """Bits `[batch context_size + num_steps]`.

        What would follow each context at each step is drawn at once; only the way through it is a loop.
        """
        size, num_contexts, rows = self.context_size, 2**self.context_size, np.arange(batch_size)
        chances = random.beta(0.5, 0.5, (batch_size, 1, num_contexts))
        follows = random.random((batch_size, self.num_steps, 1)) < chances
        bits = np.empty((batch_size, size + self.num_steps), dtype=np.int64)
        bits[:, :size] = random.integers(0, 2, (batch_size, size))
        context = bits[:, :size] @ self._place_values().long().numpy()
        for step in range(self.num_steps):
            bits[:, size + step] = bit = follows[rows, step, context]
            context = (2 * context + bit) % num_contexts
        return bits

    def _place_values(self) -> Tensor:
        """What the bits of a context count in its number; the newest counts 1."""
        return 2.0 ** torch.arange(self.context_size - 1, -1, -1)
