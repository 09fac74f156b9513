"""From a checked configuration to a finished run, and from a sweep to many."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from memnets.config import Experiment, build
from memnets.identity import replicas, run_folder, run_folders
from memnets.ops.backend import use_backend
from memnets.tasks.base import Task
from memnets.training import checkpoint
from memnets.training.distributed import Processes, processes
from memnets.training.initial import initial_checkpoint, load_part
from memnets.training.logger import RunLogger
from memnets.training.replica_runs import ReplicaRuns
from memnets.training.run import DONE, REFUSED, Run, find_checkpoint, locked, status_of
from memnets.training.settings import RuntimeSettings
from memnets.training.snapshot import restore_model
from memnets.training.trace import write_trace
from memnets.training.trainer import Trainer


def train(config: dict[str, Any], overrides: Sequence[str] = ()) -> int:
    """Run a checked configuration in its folder; return the exit code. A finished run is left as it is.

    With `trainer.num_replicas`, its runs in their folders: the code is that of the first that is not done.
    """
    try:
        with processes(config["runtime"]["device"]) as group, ExitStack() as locks:
            if config["trainer"]["num_replicas"] > 1 and group.count > 1:
                raise ValueError("trainer.num_replicas is for one process: start it without torchrun")
            for folder in run_folders(config):
                locks.enter_context(locked(folder, group))
            pending = [own for own in replicas(config) if _pending(own, group)]
            return _train(pending, group, overrides) if pending else DONE
    except (BlockingIOError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _pending(config: dict[str, Any], group: Processes) -> bool:
    """Whether there is something to do; says so if not."""
    folder = run_folder(config)
    if not group.share(status_of(folder).get("status") == "done" and config["runtime"]["resume"] != "never"):
        return True
    if group.leads:
        print(f"{folder} is finished already; runtime.resume=never trains it anew", file=sys.stderr)
    return False


def _train(configs: Sequence[dict[str, Any]], group: Processes, overrides: Sequence[str]) -> int:
    """Train one run, or several that differ in their seed alone as one."""
    runtime = RuntimeSettings(**configs[0]["runtime"])
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(runtime.deterministic)
    build_alike = Alike()
    runs = [_run(config, group, overrides, build_alike) for config in configs]
    with use_backend(runtime.backend):
        codes = ReplicaRuns(runs).execute() if len(runs) > 1 else [runs[0].execute()]
        for config, run, code in zip(configs, runs, codes, strict=True):
            if code == DONE and group.leads and runtime.pictures:
                trace_run(run.folder, config, group.device)
    return next((code for code in codes if code != DONE), DONE)


class Alike:
    """Builds runs that differ in their seed alone: they share one task, which knows no seed and is never changed."""

    def __init__(self) -> None:
        self._task: Task | None = None

    def __call__(self, config: dict[str, Any]) -> Experiment:
        """Build a run."""
        experiment = build(config, self._task)
        self._task = experiment.task
        return experiment


def _run(
    config: dict[str, Any],
    group: Processes,
    overrides: Sequence[str],
    build_alike: Callable[[dict[str, Any]], Experiment],
) -> Run:
    folder = run_folder(config)

    def start(logger: RunLogger) -> Trainer:
        return make_trainer(build_alike(config), folder, logger, group)

    return Run(start, folder, config, group, overrides)


def trace_run(folder: Path, config: dict[str, Any], device: torch.device) -> None:
    """Write what the tested weights do on one sequence; what goes wrong with a picture is a warning."""
    try:
        experiment = build(config)
        model = experiment.model.to(device)
        restore_model(checkpoint.load(find_checkpoint(folder), device), model, averaged=True)
        write_trace(model, experiment.task, folder, device)
    except Exception as error:
        warnings.warn(f"no trace for pictures: {type(error).__name__}: {error}", stacklevel=2)


def make_trainer(experiment: Experiment, folder: Path, logger: RunLogger, group: Processes) -> Trainer:
    """Return the trainer of an experiment.

    Raises:
        CheckpointError: the weights it is to begin with can't be used.
    """
    if (given := experiment.trainer.initial_weights) is not None:
        found = initial_checkpoint(given, Path(experiment.runtime.runs_dir), experiment.seed)
        load_part(experiment.model, found, experiment.trainer.initial_part)
    return Trainer(
        experiment.task,
        experiment.model,
        experiment.make_optimizer,
        experiment.trainer,
        experiment.seed,
        folder,
        logger,
        group,
        experiment.runtime.parallel,
    )
