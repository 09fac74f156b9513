"""Several tasks at once: each training batch is one of them, drawn by weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.retrieval.tokenizer import HashedTokenizer, Tokenizer
from memnets.tasks.base import Task, generator

HEADS: Final[dict[str, Literal["span", "tokens", "class"]]] = {"spans": "span", "tokens": "tokens", "classes": "class"}
"""The head that each place of a mixture is for."""

SPLITTING = ("num_validation_articles", "num_test_articles")
"""What says which articles of SQuAD a task trains on."""

BLOCK = 4096
"""Draws are made, and kept, so many at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Task):
    """Trains one model on several tasks of texts, each answered by its own head (Caruana 1997: multi-task learning).

    Which task a training batch comes from is drawn by `weights`; the task then gives its own next batch. Validation
    goes through one task after the other. Test sets are those of `spans`, and `tokens` and `classes`. Metrics are named
    with the task: `spans_f1`.

    Attributes:
        spans: what matters; the others are to help.
        tokens: hidden tokens; null: none.
        classes: pairs of texts; null: none.
        tokenizer: makes tokens of texts, for all of the tasks.
        weights: three numbers, how often spans, tokens and classes are drawn; of what is null it is 0.

    Raises:
        ValueError: a task has another head than its place asks for, tasks split articles in other ways, or weights are
            not three, negative or all 0.
    """

    spans: Task
    tokens: Task | None = None
    classes: Task | None = None
    tokenizer: Tokenizer = field(default_factory=HashedTokenizer)
    weights: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        given = {"spans": self.spans, "tokens": self.tokens, "classes": self.classes}
        for name, task in given.items():
            if task is None:
                continue
            if task.spec.heads != (HEADS[name],) or "tokenizer" not in {own.name for own in fields(cast(Any, task))}:
                raise ValueError(f"Mixture.{name} must be a task of texts for the head {HEADS[name]!r}, not {task}")
            object.__setattr__(self, name, replace(cast(Any, task), tokenizer=self.tokenizer))
        for name in SPLITTING:
            counts = {own: getattr(task, name) for own, task in self.tasks.items() if hasattr(task, name)}
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{own} {count}" for own, count in counts.items())
                raise ValueError(f"Mixture: {name} must be equal, or one task trains on another's test: {told}")
        if len(self.weights) != len(HEADS) or min(self.weights) < 0 or not sum(self.shares):
            raise ValueError(f"Mixture.weights must be three numbers from 0 on, not all 0, not {list(self.weights)}")
        names = tuple(f"{name}_{metric}" for name, task in self.tasks.items() for metric in task.metric_names)
        object.__setattr__(self, "metric_names", names)

    @property
    def tasks(self) -> dict[str, Task]:
        """Those there are, by name."""
        given = {"spans": self.spans, "tokens": self.tokens, "classes": self.classes}
        return {name: task for name, task in given.items() if task is not None}

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights of the tasks there are."""
        return tuple(weight for name, weight in zip(HEADS, self.weights, strict=True) if name in self.tasks)

    @property
    def spec(self) -> Spec:
        """Every task's heads; classes are of the one that has them."""
        classes = self.spans.spec.output_size if self.classes is None else self.classes.spec.output_size
        return Spec("text", self.tokenizer.size, classes, heads=tuple(HEADS[name] for name in self.tasks))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return a batch of one of the tasks; `groups` tells which.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        number, own = self._draw(index, seed) if split == "train" else self._turn(split, index, batch_size)
        batch = list(self.tasks.values())[number].batch(split, own, batch_size, seed)
        return replace(batch, groups=torch.full_like(batch.mask, number, dtype=torch.long))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that go once through every task."""
        return sum(task.num_batches(split, batch_size) for task in self.tasks.values())

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Loss of the batch's task."""
        return self._of(batch)[1].loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Metrics of the batch's task; of the others, sums over nothing."""
        own, _ = self._of(batch)
        nothing = Ratio(torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
        named: dict[str, Ratio] = {}
        for name, task in self.tasks.items():
            found = task.metrics(outputs, batch) if name == own else dict.fromkeys(task.metric_names, nothing)
            named |= {f"{name}_{metric}": found[metric] for metric in task.metric_names}
        return named

    def oracle(self, batch: Batch) -> Tensor:
        """Oracle of the batch's task.

        Raises:
            NoOracleError: that one has none.
        """
        return self._of(batch)[1].oracle(batch)

    def test_sets(self) -> dict[str, Task]:
        """Return those of `spans`, and of each other task the one named `test`, under the task's name."""
        others = {name: task.test_sets()["test"] for name, task in self.tasks.items() if task is not self.spans}
        return {**self.spans.test_sets(), **others}

    def _of(self, batch: Batch) -> tuple[str, Task]:
        """Name and task that a batch comes from."""
        assert batch.groups is not None
        return list(self.tasks.items())[int(batch.groups.flatten()[0])]

    def _draw(self, index: int, seed: int) -> tuple[int, int]:
        """Return the task of training batch `index`, and how many it gave before."""
        drawn = _draws(self.shares, seed, 1 + index // BLOCK)
        return int(drawn[index]), int((drawn[:index] == drawn[index]).sum())

    def _turn(self, split: Split, index: int, batch_size: int) -> tuple[int, int]:
        counts = [task.num_batches(split, batch_size) for task in self.tasks.values()]
        ends = np.cumsum(counts)
        if not 0 <= index < ends[-1]:
            raise IndexError(f"{split} has {ends[-1]} batches, none number {index}")
        number = int(np.searchsorted(ends, index, side="right"))
        return number, int(index - (ends[number] - counts[number]))


@lru_cache(maxsize=4)
def _draws(weights: tuple[float, ...], seed: int, num_blocks: int) -> np.ndarray:
    """Return the tasks of the first training batches."""
    shares = np.cumsum(weights) / sum(weights)
    drawn = [generator(seed, "train", block).random(BLOCK) for block in range(num_blocks)]
    return np.searchsorted(shares, np.concatenate(drawn), side="right")
