"""What metrics are compared with: the level of guessing, and what the task's own solution gets."""

from __future__ import annotations

import torch
from torch import Tensor

from memnets.contracts import Split
from memnets.tasks.base import NoOracleError, Task
from memnets.training.evaluation import EVALUATION_SEED, measures, quotient, with_derived

REFERENCES = "references.json"
"""A run's file: `{"chance": {"test/accuracy": 0.03}, "oracle": {"test/accuracy": 1.0, ...}}`."""


def references(task: Task, split: Split, batch_size: int) -> dict[str, dict[str, float]]:
    """Return metrics by reference: `chance` where the task knows it, `oracle` on the very batches that are evaluated.

    Either is left out where the task has none.
    """
    found = {"chance": task.chance, "oracle": oracle_metrics(task, split, batch_size)}
    return {name: metrics for name, metrics in found.items() if metrics}


def run_references(task: Task, batch_size: int) -> dict[str, dict[str, float]]:
    """Return the references of the first test set, metrics named with it: `test/accuracy`."""
    name, first = next(iter(task.test_sets().items()))
    found = references(first, "test", batch_size)
    return {kind: {f"{name}/{key}": value for key, value in metrics.items()} for kind, metrics in found.items()}


@torch.no_grad()
def oracle_metrics(task: Task, split: Split, batch_size: int) -> dict[str, float]:
    """Return `loss` and metrics of the task's oracle on a split; {} if it knows no answers."""
    totals: dict[str, Tensor] = {}
    for index in range(task.num_batches(split, batch_size)):
        batch = task.batch(split, index, batch_size, EVALUATION_SEED)
        try:
            outputs = task.oracle(batch)
        except NoOracleError:
            return {}
        for name, ratio in measures(task, outputs, batch).items():
            totals[name] = totals.get(name, 0) + torch.stack(ratio).double()
    return with_derived(task, {name: quotient(*sums.tolist()) for name, sums in totals.items()})
