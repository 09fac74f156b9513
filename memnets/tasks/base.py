"""The task contract: data, loss, metrics and an oracle, owned by one file per task."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Criterion(NamedTuple):
    """When a task counts as solved: `metric` at or beyond `threshold`."""

    metric: str
    threshold: float
    mode: Literal["min", "max"]

    def met(self, value: float) -> bool:
        """Whether `value` is good enough."""
        return value <= self.threshold if self.mode == "min" else value >= self.threshold


class Texts(NamedTuple):
    """What a batch of one question says, for pictures.

    Attributes:
        query: the question, without a mark at its end.
        items: what each item says that a model's attention weighs, a story's sentences or what was retrieved; "" of
            padding. Empty where a model reads the story as a sequence: then nothing but its memory has items.
        answers: what each class says.
    """

    query: str
    items: Sequence[str]
    answers: Sequence[str]


class Task(ABC):
    """Data, loss and metrics of one problem. Subclasses are frozen dataclasses whose fields are the YAML's keys."""

    metric_names: ClassVar[tuple[str, ...]]
    """What `metrics` returns: lets a configuration that names another metric be refused before anything runs.

    Where even the best outputs cost something, `optimal_<name>` beside `<name>` is the least it can be on the same
    data: a reference line that no outputs move, and what the oracle must reach.
    """

    solved: ClassVar[Criterion | None] = None

    judges_places: ClassVar[bool] = False
    """Whether loss and metrics judge each labelled place by itself. Then a model may leave out all other outputs, which
    saves most of the work where few of many steps are asked for and there are thousands of classes: outputs and batch
    come as rows of one step, a row per label (`Batch.labelled`).
    """

    @property
    def chance(self) -> dict[str, float]:
        """Levels of guessing by metric: every class at random. {} where they aren't known, or hang on lengths drawn."""
        return {}

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Outputs from 0 to 1, as pictures show them: every one by itself."""
        return torch.sigmoid(outputs)

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Rows and columns of the picture that the numbers of every input begin with; None if there is none."""
        return None

    @property
    def vocabulary(self) -> Sequence[str]:
        """Words by id, for tasks of words: lets pictures show text. Id 0 is padding."""
        return ()

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """Kind and sizes of inputs and outputs."""

    @abstractmethod
    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Batch number `index` of a split: a pure function of its arguments, so that resuming needs one integer.

        Splits never share random numbers. With several processes, process `rank` of `n` at micro-step `s` takes
        index `s * n + rank`: more processes, or more accumulation, see the same data.
        """

    @abstractmethod
    def num_batches(self, split: Split, batch_size: int) -> int:
        """Number of batches that make one evaluation of `split`."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Float[Tensor, ""]:
        """Loss *summed* over `batch.mask`: the trainer divides by the number of places it counts at."""

    @abstractmethod
    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Metrics as sums and counts, so that batches and processes add up exactly.

        So do a batch's rows (`Batch.rows`), as their losses: examples can be judged one by one, to be resampled.
        """

    def retrieval_ranks(self, split: Split) -> Sequence[Int[Tensor, " found"]]:
        """Return the rank, from 1, that a split's questions each find their entry at among all of the memory's.

        One number each, none where the entry can't be read (`memnets.retrieval.ranking`). () of a task that retrieves
        nothing, or does not know what it should.
        """
        return ()

    def texts(self, batch: Batch) -> Texts | None:
        """Return what a batch of one question says; None of a task that has no words for it."""
        return None

    def judge_written(self, written: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Metrics of what a model wrote by itself, `[batch time]` as `SequenceModel.go_on` returns it, if it can."""
        return {}

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is no mean itself but follows from the means over a split: the perplexity from the loss."""
        return {}

    @abstractmethod
    def oracle(self, batch: Batch) -> Tensor:
        """Outputs that solve the batch, computed by hand from `batch.inputs` alone: proof that it can be solved.

        Raises:
            NoOracleError: nobody wrote down how this one is solved.
        """

    def test_sets(self) -> dict[str, Task]:
        """Tasks to evaluate on when training ends, by name: the task itself, and what lies beyond its training."""
        return {"test": self}

    def at_length(self, length: int) -> Task:
        """Return the same task at one exact length, for evaluation beyond training.

        Raises:
            ValueError: the task has no length.
        """
        raise ValueError(f"{type(self).__name__} has no length to vary: leave `lengths` out")


def generator(seed: int, split: Split, index: int) -> np.random.Generator:
    """Random numbers of one batch, independent of every other (seed, split, index)."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def epoch_indices(num_items: int, index: int, batch_size: int, seed: int) -> np.ndarray:
    """Items of training batch `index` when each epoch is one shuffled pass, its last incomplete batch left out."""
    if batch_size > num_items:
        raise ValueError(f"a batch of {batch_size} needs at least as many items; there are {num_items}")
    per_epoch = num_items // batch_size
    epoch, position = divmod(index, per_epoch)
    return _shuffled(num_items, epoch, seed)[position * batch_size : (position + 1) * batch_size]


def distinct(random: np.random.Generator, shape: tuple[int, ...], below: int, count: int) -> np.ndarray:
    """`count` different numbers from 0 to `below` - 1 for each entry of `shape`, in random order."""
    return random.random((*shape, below)).argsort(-1)[..., :count]


@lru_cache(maxsize=64)
def _shuffled(num_items: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, SPLITS.index("train"), epoch]).permutation(num_items)


def ratio(values: Tensor, where: Tensor | None = None) -> Ratio:
    """Sum of `values` over `where`, and how many they are."""
    where = torch.ones_like(values) if where is None else where
    return Ratio((values * where).sum(dtype=torch.float64), where.sum(dtype=torch.float64))


def class_loss(outputs: Tensor, batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy in nats, in float32, summed over the labelled places."""
    return F.cross_entropy(outputs[batch.mask].float(), batch.targets[batch.mask], reduction="sum")


def class_accuracy(outputs: Tensor, batch: Batch) -> Ratio:
    """Share of the labelled places whose class is the one of the greatest logit."""
    return ratio((outputs[batch.mask].argmax(-1) == batch.targets[batch.mask]).double())


class NoOracleError(ValueError):
    """A task of a kind whose rules are not written down here has no oracle."""


class DataError(Exception):
    """A data file is missing or malformed. Its message says which, where, and what to do."""


def find_data(root: Path, places: tuple[str, ...], published: str) -> Path:
    """Return the first of `places` below `root` that exists.

    Raises:
        DataError: none does; the message lists where it looked and where the original is published.
    """
    for place in places:
        if (root / place).exists():
            return root / place
    looked = "\n".join(f"  {root / place}" for place in places)
    raise DataError(
        f"missing data: none of these exists:\n{looked}\n"
        f"The original is published at {published}. Put it there, or point the environment variable MEMNETS_DATA "
        f"(or task.data_root) at the folder that holds it."
    )


def verify_checksum(path: Path, expected: str | None) -> None:
    """Compare a file with the sha256 the project knows for it; `None` knows nothing.

    Raises:
        DataError: the file differs from the published one.
    """
    if expected is None:
        return
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise DataError(
            f"{path}: checksum {actual[:12]}… differs from the published file's {expected[:12]}…: truncated or "
            f"altered? Fetch it again, or set task.verify_checksum=false to use it as it is."
        )


def as_tensor(array: Any) -> Tensor:
    """Return a numpy array as a tensor: floats become float32, integers int64."""
    dtype = torch.float32 if np.asarray(array).dtype.kind == "f" else None
    return torch.as_tensor(array, dtype=dtype)
