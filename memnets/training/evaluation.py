"""Metrics of a model on a split of a task, summed exactly over batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from memnets.contracts import Batch, Ratio, Split
from memnets.tasks.base import Task
from memnets.training.carry import first_state
from memnets.training.distributed import Processes, plain
from memnets.training.supporting import supporting_facts

EVALUATION_SEED = 0
"""All runs are judged on the same sequences, whatever seed they trained with."""


Note = Callable[[Tensor, Batch, Batch, Any, Tensor | None], None]
"""Is told of a batch: outputs, the batch as they answer it, the batch as it was read, the state after it, and what the
model wrote.
"""


def evaluate(
    model: nn.Module,
    task: Task,
    split: Split,
    batch_size: int,
    group: Processes,
    bfloat16: bool = False,
    note: Note | None = None,
) -> dict[str, float]:
    """Return `loss` and the task's metrics on a split, without gradients, each as one ratio over all its sequences.

    Batches that continue one another (`Batch.starts`) are read with the state of those before. Of a model that shows
    its attention, on a task that knows the supporting facts, also how many of these it finds; of one that writes, how
    the task judges this; of one with memories, what these find worth watching as they read the last batch
    (`SequenceModel.gauges`). `note` is told of every batch that this process counts.

    Raises:
        ValueError: the split has no batch.
    """
    totals: dict[str, Tensor] = {}
    was_training, state = model.training, None
    model.eval()
    torch.manual_seed(EVALUATION_SEED)
    with torch.no_grad():
        for batch, counts, last in _batches(task, split, batch_size, group):
            with torch.autocast(group.device.type, torch.bfloat16, enabled=bfloat16):
                before = first_state(plain(model), state, batch)
                outputs, judged, state = answers(plain(model), task, batch, before)
                written = plain(model).go_on(batch.inputs, batch.mask)
                found = supporting_facts(plain(model), batch) | judged_writing(task, written, batch)
                seen = plain(model).gauges(batch.inputs, before) if last else {}
            for name, ratio in {**measures(task, outputs, judged), **found, **seen}.items():
                counted = torch.stack(ratio).double() * counts
                totals[name] = totals.get(name, torch.zeros_like(counted)) + counted
            if note is not None and counts:
                note(outputs, judged, batch, state, written)
    model.train(was_training)
    return with_derived(task, {name: quotient(*group.sum(sums).tolist()) for name, sums in totals.items()})


def answers(model: nn.Module, task: Task, batch: Batch, state: Any) -> tuple[Tensor, Batch, Any]:
    """Return a model's outputs, the batch as they answer it, and the state after it.

    Where the task judges labelled places by themselves and the model can, these are all that is computed.
    """
    if task.judges_places and plain(model).answers_places:
        outputs, state = model(batch.inputs, state, batch.mask)
        return outputs, batch.labelled(), state
    outputs, state = model(batch.inputs, state)
    return outputs, batch, state


def judged_writing(task: Task, written: Tensor | None, batch: Batch) -> dict[str, Ratio]:
    """Return how the task judges what a model wrote at the places the loss counts at; nothing of one that can't."""
    return {} if written is None else task.judge_written(written, batch)


def _batches(task: Task, split: Split, batch_size: int, group: Processes) -> Iterator[tuple[Batch, bool, bool]]:
    """A process's batches, whether it counts them, and whether it is the last.

    Each process runs as many as the others: a sharded model must. Processes take batches in turn. Where these continue
    one another each reads them all, and the leading one counts.
    """
    num_batches = task.num_batches(split, batch_size)
    if not num_batches:
        raise ValueError(f"{type(task).__name__}: {split} has nothing to evaluate on, in batches of {batch_size}")
    in_turn = task.batch(split, 0, batch_size, EVALUATION_SEED).starts is None
    step = group.count if in_turn else 1
    for first in range(0, num_batches, step):
        index = first + (group.rank if in_turn else 0)
        batch = task.batch(split, min(index, num_batches - 1), batch_size, EVALUATION_SEED).to(group.device)
        yield batch, index < num_batches if in_turn else group.leads, first + step >= num_batches


def measures(task: Task, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
    """Return the task's metrics and, under `loss`, its loss per place it counts at."""
    loss = Ratio(task.loss(outputs, batch).detach().double(), batch.mask.sum().double())
    return {"loss": loss, **task.metrics(outputs.detach(), batch)}


def with_derived(task: Task, means: dict[str, float]) -> dict[str, float]:
    """Return the means, the loss first, with what the task derives from them right after it."""
    return {"loss": means["loss"], **task.derived_metrics(means), **means}


def quotient(total: float, count: float) -> float:
    """Return the mean; NaN of nothing."""
    return total / count if count else float("nan")
