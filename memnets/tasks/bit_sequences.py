"""What tasks over binary vectors share: cross-entropy per bit, and bit errors per sequence (NTM paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memnets.contracts import Batch, Ratio, Split
from memnets.tasks.base import Criterion, Task, generator, ratio


@dataclass(frozen=True, kw_only=True)
class BitTask(Task):
    """A generated task whose outputs are logits of bits.

    Attributes:
        eval_sequences: sequences drawn for one evaluation.
        test_lengths: lengths of the extra test sets `length_<n>`.
    """

    eval_sequences: int = 512
    test_lengths: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_sizes(self, "eval_sequences")

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches in one evaluation."""
        return -(-self.eval_sequences // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy in nats, mean over bits, summed over masked steps."""
        losses = F.binary_cross_entropy_with_logits(outputs.float(), batch.targets, reduction="none").mean(-1)
        return (losses * batch.mask).sum()

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself and one set per test length."""
        return {"test": self} | {f"length_{length}": self.at_length(length) for length in self.test_lengths}

    def _random(self, split: Split, index: int, seed: int) -> np.random.Generator:
        return generator(seed, split, index)


@dataclass(frozen=True, kw_only=True)
class BitSequenceTask(BitTask):
    """A task over vectors of bits, of which a perfect model gets every one right.

    Attributes:
        num_bits: data bits per vector.
        curriculum_batches: over this many training batches the longest length grows from the shortest to the longest;
            0 draws from the full range at once.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("bit_errors", "sequence_errors", "bits")
    solved: ClassVar[Criterion | None] = Criterion("bit_errors", 0.01, "min")

    num_bits: int = 8
    curriculum_batches: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "num_bits")

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Wrong bits per sequence, the share of sequences with any wrong bit, and the paper's bits per sequence."""
        wrong = ((outputs > 0) != (batch.targets > 0.5)).sum(-1) * batch.mask
        per_sequence = wrong.sum(1).double()
        return {
            "bit_errors": ratio(per_sequence),
            "sequence_errors": ratio((per_sequence > 0).double()),
            "bits": ratio(cost_in_bits(outputs, batch)),
        }

    def _longest(self, shortest: int, longest: int, split: Split, index: int) -> int:
        """Longest length at this point of the curriculum."""
        if split != "train" or index >= self.curriculum_batches:
            return longest
        return shortest + (longest - shortest) * index // self.curriculum_batches


def cost_in_bits(outputs: Float[Tensor, "batch time bits"], batch: Batch) -> Float[Tensor, " batch"]:
    """Cross-entropy of each sequence in bits, summed over its masked steps: what the NTM paper's figures show.

    In float64, so that batches and processes add up exactly and a difference of two costs keeps its digits.
    """
    losses = F.binary_cross_entropy_with_logits(outputs.double(), batch.targets.double(), reduction="none").sum(-1)
    return (losses * batch.mask).sum(1) / math.log(2)


def check_sizes(task: Task, *names: str) -> None:
    """Refuse sizes of nothing.

    Raises:
        ValueError: a field of `task` among `names` is below 1.
    """
    for name in names:
        if getattr(task, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(task, name)}")


def check_range(name: str, low: int, high: int) -> None:
    """Refuse an empty range of lengths.

    Raises:
        ValueError: unless 1 <= low <= high.
    """
    if not 1 <= low <= high:
        raise ValueError(f"min_{name} and max_{name} must satisfy 1 <= min <= max, not {low} and {high}")


def distinct_vectors(random: np.random.Generator, batch_size: int, count: int, size: int) -> np.ndarray:
    """Vectors of bits `[batch count size]`; whichever equals an earlier one of its sequence is drawn again.

    Every choice of differing vectors stays equally likely: redrawing treats all values alike.
    """
    vectors = random.integers(0, 2, (batch_size, count, size))
    earlier = np.tri(count, k=-1, dtype=bool)
    while (again := ((vectors[:, :, None] == vectors[:, None]).all(-1) & earlier).any(-1)).any():
        vectors[again] = random.integers(0, 2, (again.sum(), size))
    return vectors


def bit_batch(inputs: np.ndarray, targets: np.ndarray, first_answer: int) -> Batch:
    """Batch whose answer fills all steps from `first_answer` on; targets before it are zero and not counted."""
    mask = np.zeros(inputs.shape[:2], dtype=bool)
    mask[:, first_answer:] = True
    padded = np.zeros((*inputs.shape[:2], targets.shape[-1]))
    padded[:, first_answer:] = targets
    return Batch(torch.from_numpy(inputs).float(), torch.from_numpy(padded).float(), torch.from_numpy(mask))


def as_logits(bits: Tensor) -> Tensor:
    """Bits as logits so confident that being right costs no bits: what an oracle answers."""
    return (bits - 0.5) * 100
