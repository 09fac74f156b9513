"""A checkpoint on its task: other lengths, other splits, other settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from memnets.check import ConfigError, Problem
from memnets.config import build, load
from memnets.contracts import Split
from memnets.ops.backend import use_backend
from memnets.tasks.base import SPLITS, Task
from memnets.training import checkpoint
from memnets.training.distributed import processes
from memnets.training.evaluation import evaluate
from memnets.training.examples import Examples, Measured, Stages
from memnets.training.logger import now
from memnets.training.references import references
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model
from memnets.training.trace import write_trace


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: a checkpoint, a split, exact lengths (none: the task's own test sets), and overrides."""

    path: Path
    split: str = "test"
    lengths: Sequence[int] = ()
    overrides: list[str] = field(default_factory=list)


class Evaluated(NamedTuple):
    """Metrics by test set, what those of the first are compared with (`training.references`), and intervals.

    `stages`, by test set, hold the metrics once more, with intervals, and further ones (`training.examples`); of
    several processes, each of which sees its own examples only, just the metrics.
    """

    metrics: dict[str, dict[str, float]]
    references: dict[str, dict[str, float]]
    stages: dict[str, Stages]


def evaluate_checkpoint(wanted: Evaluation) -> Evaluated:
    """Return metrics; append them to the run's `evaluations.jsonl`; write a trace into `evaluation/`.

    Raises:
        ConfigError: no such folder, split or key.
        CheckpointError: no checkpoint, or a damaged one.
        ValueError: the task has no length, or the split no examples.
    """
    if wanted.split not in SPLITS:
        raise ConfigError([Problem("split", f"expected one of {', '.join(SPLITS)}, not {wanted.split!r}")])
    path = find_checkpoint(wanted.path)
    folder = path.parent.parent
    config = load(folder / "config.yaml", wanted.overrides)
    experiment = build(config)
    split: Split = SPLITS[SPLITS.index(wanted.split)]
    with processes(experiment.runtime.device) as group, use_backend(experiment.runtime.backend):
        model = experiment.model.to(group.device)
        restore_model(checkpoint.load(path, group.device), model, averaged=True)
        bfloat16 = experiment.trainer.precision == "bfloat16"
        sets, size = _sets(experiment.task, wanted), experiment.trainer.eval_batch_size
        results, stages, counts = {}, {}, {}
        for name, task in sets.items():
            examples = Examples(model, task) if group.count == 1 else None
            results[name] = evaluate(model, task, split, size, group, bfloat16, examples)
            stages[name] = {"answers": {key: Measured(value) for key, value in results[name].items()}}
            if examples is not None:
                stages[name], counts[name] = examples.stages(split, results[name]), len(examples.answers)
        compared = references(next(iter(sets.values())), split, size)
        (folder / "evaluation").mkdir(exist_ok=True)
        write_trace(model, _longest(experiment.task, wanted), folder / "evaluation", group.device)
    row: dict[str, Any] = {
        "checkpoint": path.name,
        "split": split,
        "overrides": wanted.overrides,
        "date": now(),
        "metrics": results,
        "references": compared,
        "examples": counts,
        "stages": stages,
    }
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return Evaluated(results, compared, stages)


def _sets(task: Task, wanted: Evaluation) -> dict[str, Task]:
    if wanted.lengths:
        return {f"length_{length}": task.at_length(length) for length in wanted.lengths}
    return task.test_sets() if wanted.split == "test" else {wanted.split: task}


def _longest(task: Task, wanted: Evaluation) -> Task:
    return task.at_length(max(wanted.lengths)) if wanted.lengths else task
