"""Segmented copy: read a sequence first, write it segments later (Bulatov et al. 2022, RMT, arXiv:2207.06881)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec
from memnets.tasks.base import Criterion, ratio
from memnets.tasks.token_sequences import SegmentedTask, as_scores, check_least


@dataclass(frozen=True, kw_only=True)
class SegmentedCopy(SegmentedTask):
    """Copy across segments, as a language model would: each step of the copy shows the symbol before it.

    ```
    segment   |--- 0 ---|--- 1 ---|--- 2 ---|     1 copied segment of 4 steps
    token      a b c d   . . . .   > a b c        . is one of several fillers, > begins the copy
    target                         a b c d        counted where a letter is
    ```

    Symbols are independent of one another, so that what the copy has shown says nothing about what follows: only the
    first segments do. A window that does not reach them stays at chance. Tokens: symbols, then fillers, then `>`.

    The paper copies twice and without fillers, its sequences growing with the number of segments; here the distance
    grows with `num_segments` and what must be remembered with `copied_segments`.

    Attributes:
        copied_segments: segments that the sequence to copy takes, as the first and again as the last ones.
        num_symbols: symbols to draw from: the classes of the answer.
        num_fillers: tokens that mean nothing, in between.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "sequence_accuracy")
    solved: ClassVar[Criterion | None] = Criterion("accuracy", 0.99, "max")

    copied_segments: int = 1
    num_symbols: int = 16
    num_fillers: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "segment_length", "copied_segments", "num_symbols", "num_fillers")
        if self.num_segments < 2 * self.copied_segments:
            raise ValueError(
                f"num_segments={self.num_segments} is too few: copied_segments={self.copied_segments} are read and "
                f"written, which takes {2 * self.copied_segments}"
            )

    @property
    def copied_length(self) -> int:
        """Symbols of the sequence to copy."""
        return self.copied_segments * self.segment_length

    @property
    def remote_distance(self) -> int:
        """Steps from a symbol back in time from where it is asked for: what a window must not reach."""
        return (self.num_segments - self.copied_segments) * self.segment_length

    @property
    def spec(self) -> Spec:
        """Tokens in, symbols out."""
        return Spec("tokens", self.num_symbols + self.num_fillers + 1, self.num_symbols)

    @property
    def chance(self) -> dict[str, float]:
        """Any symbol is as likely as another, at each step anew."""
        return {"accuracy": 1 / self.num_symbols, "sequence_accuracy": self.num_symbols**-self.copied_length}

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of symbols that are right, and of sequences all of whose symbols are; of a stream, of segments."""
        right = outputs.argmax(-1) == batch.targets
        whole = (right | ~batch.mask).all(1).double()
        return {"accuracy": ratio(right.double(), batch.mask), "sequence_accuracy": ratio(whole, batch.mask.any(1))}

    def oracle(self, batch: Batch) -> Tensor:
        """Give the first segments again as the last. Of a stream nothing can be told, as it holds one of them."""
        answer = torch.zeros_like(batch.inputs)
        answer[:, -self.copied_length :] = batch.inputs[:, : self.copied_length]
        return as_scores(answer.clamp(max=self.num_symbols - 1), self.num_symbols)

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        length, count = self.num_segments * self.segment_length, self.copied_length
        symbols = random.integers(0, self.num_symbols, (batch_size, count))
        tokens = self.num_symbols + random.integers(0, self.num_fillers, (batch_size, length))
        tokens[:, :count] = symbols
        tokens[:, -count] = self.num_symbols + self.num_fillers
        tokens[:, length - count + 1 :] = symbols[:, :-1]
        targets, mask = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        targets[:, -count:] = symbols
        mask[:, -count:] = True
        return Batch(*(torch.from_numpy(part) for part in (tokens, targets, mask)))
