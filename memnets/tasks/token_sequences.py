"""What generated tasks over tokens share: classes as answers at labelled steps, and sequences made of segments."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Split
from memnets.tasks.base import Task, class_loss, generator

Segmented = TypeVar("Segmented", bound="SegmentedTask")


@dataclass(frozen=True, kw_only=True)
class TokenTask(Task):
    """A generated task whose outputs are logits of classes.

    Attributes:
        eval_sequences: sequences drawn for one evaluation.
    """

    eval_sequences: int = 512

    def __post_init__(self) -> None:
        check_least(self, 1, "eval_sequences")

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw `batch_size` sequences."""
        return self._draw(generator(seed, split, index), batch_size)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches in one evaluation."""
        return -(-self.eval_sequences // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over labelled steps."""
        return class_loss(outputs, batch)

    @abstractmethod
    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        """Whole sequences."""


@dataclass(frozen=True, kw_only=True)
class SegmentedTask(TokenTask):
    """A task whose sequences are segments, one after the other.

    Attributes:
        num_segments: segments of a sequence.
        segment_length: steps of a segment.
        stream: training batch i is segment i % num_segments of sequence batch i // num_segments, for training that
            carries the state from step to step (`trainer.carry_state`). Evaluation sees whole sequences all the same.
    """

    num_segments: int = 4
    segment_length: int = 16
    stream: bool = False

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw `batch_size` sequences; a segment of them in a training stream."""
        if not self.stream or split != "train":
            return super().batch(split, index, batch_size, seed)
        sequences, segment = divmod(index, self.num_segments)
        whole = super().batch(split, sequences, batch_size, seed)
        piece = list(whole.windows(self.segment_length))[segment]
        return replace(piece, starts=torch.full((batch_size,), segment == 0))

    def at_length(self: Segmented, length: int) -> Segmented:
        """Return the task with `length` segments."""
        return replace(self, num_segments=length)


def as_scores(classes: Tensor, num_classes: int) -> Tensor:
    """Classes as logits so confident that being right costs next to nothing: what an oracle answers."""
    return torch.zeros(*classes.shape, num_classes).scatter_(-1, classes[..., None], 20.0)


def check_least(task: Task, least: int, *names: str) -> None:
    """Refuse sizes that are too small.

    Raises:
        ValueError: a field of `task` among `names` is below `least`.
    """
    for name in names:
        if getattr(task, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(task, name)}")
