"""Metrics of every example by itself, so that it can be said how sure their means are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Split, map_tensors
from memnets.intervals import percentile_interval, resampled_means
from memnets.models.base import SequenceModel
from memnets.retrieval.ranking import retrieval_metrics
from memnets.tasks.base import Task
from memnets.training.evaluation import judged_writing, measures
from memnets.training.supporting import facts_found


class Measured(NamedTuple):
    """A metric and its 95 % interval; None where it has none, as a gauge that is of no single example."""

    value: float
    low: float | None = None
    high: float | None = None


Stages = dict[str, dict[str, Measured]]
"""Metrics by the part of the work that they judge."""


class Examples:
    """What each example, a row of a batch, adds to every metric. `evaluate` tells of each batch by calling it.

    Attributes:
        answers: metrics of the task, the loss first, and how many supporting facts are found.
        memory: how the model's own memory, or what was retrieved for it, is used (`Block.use`): of one that is written
            step by step after the last, padding of the batch's shorter sequences included.
    """

    def __init__(self, model: SequenceModel, task: Task) -> None:
        self.model, self.task = model, task
        self.answers: list[dict[str, Ratio]] = []
        self.memory: list[dict[str, Ratio]] = []

    def __call__(self, outputs: Tensor, judged: Batch, batch: Batch, state: Any, written: Tensor | None) -> None:
        """Judge each row by itself; of `Batch.labelled`, all the places of a row together."""
        weights = None if batch.supports is None else self.model.attention(batch.inputs)
        block = self.model.block(batch.inputs, state)
        places = [1] * batch.size if judged is batch else batch.mask.flatten(1).sum(1).tolist()
        for number, (start, end) in enumerate(pairwise(accumulate(places, initial=0))):
            row, part = slice(number, number + 1), slice(start, end)
            found = facts_found(None if weights is None else weights[row], batch.rows(row))
            found |= judged_writing(self.task, None if written is None else written[row], batch.rows(row))
            self.answers.append(measures(self.task, outputs[part], judged.rows(part)) | found)
            if block is not None:
                self.memory.append(map_tensors(lambda tensor, row=row: tensor[row], block).use())

    def stages(self, split: Split, metrics: dict[str, float]) -> Stages:
        """Return the metrics of an evaluation with intervals, and those of other stages than answers.

        - `answers`: the metrics that are given.
        - `memory`: how it is used, of a model that hands out a Block.
        - `retrieval`: recall at 1, 5 and 20, reciprocal rank (MRR) and nDCG at 10, of a task that retrieves.

        What is derived of means, a perplexity say, is derived of the means of every sample.

        Raises:
            ValueError: there are no examples.
        """
        within = self._derived(_samples(self.answers))
        found = {"answers": {name: _measured(value, within.get(name)) for name, value in metrics.items()}}
        ranks = retrieval_metrics(self.task.retrieval_ranks(split))
        others = {"memory": self.memory, "retrieval": _as_examples(ranks)}
        for stage, examples in others.items():
            if examples:
                means, samples = _means(examples), _samples(examples)
                found[stage] = {name: _measured(value, samples[name]) for name, value in means.items()}
        return found

    def _derived(self, samples: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = torch.stack(list(samples.values()), dim=1).tolist()
        derived = [self.task.derived_metrics(dict(zip(samples, row, strict=True))) for row in rows]
        return samples | {name: torch.tensor([each[name] for each in derived]) for name in derived[0]}


def _measured(value: float, samples: Tensor | None) -> Measured:
    return Measured(value) if samples is None else Measured(value, *percentile_interval(samples))


def _samples(examples: Sequence[dict[str, Ratio]]) -> dict[str, Tensor]:
    return dict(zip(examples[0] if examples else (), resampled_means(*_columns(examples)).T, strict=True))


def _means(examples: Sequence[dict[str, Ratio]]) -> dict[str, float]:
    totals, counts = (column.sum(0) for column in _columns(examples))
    return dict(zip(examples[0], (totals / counts).tolist(), strict=True))


def _columns(examples: Sequence[dict[str, Ratio]]) -> tuple[Tensor, Tensor]:
    """Totals and counts, `[examples metrics]` both."""
    table = [[[float(part) for part in own] for own in row.values()] for row in examples]
    shape = (len(examples), len(examples[0]) if examples else 0, 2)
    totals, counts = torch.tensor(table, dtype=torch.float64).reshape(shape).unbind(2)
    return totals, counts


def _as_examples(values: dict[str, Tensor]) -> list[dict[str, Ratio]]:
    rows = torch.stack(list(values.values()), dim=1)
    return [{name: Ratio(own, torch.ones(())) for name, own in zip(values, row, strict=True)} for row in rows]
