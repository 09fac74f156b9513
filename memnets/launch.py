"""From a checked configuration to a finished run, and from a sweep to many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from memnets.check import ConfigError
from memnets.config import Experiment, build, run_folder
from memnets.ops.backend import use_backend
from memnets.tasks.base import DataError
from memnets.training.distributed import Processes, processes
from memnets.training.logger import RunLogger
from memnets.training.run import DONE, REFUSED, Run, locked, status_of
from memnets.training.settings import RuntimeSettings
from memnets.training.trace import write_trace
from memnets.training.trainer import Trainer


def train(config: dict[str, Any], overrides: Sequence[str] = ()) -> int:
    """Run a checked configuration in its folder; return the exit code. A finished run is left as it is."""
    folder = run_folder(config)
    try:
        with processes(config["runtime"]["device"]) as group, locked(folder, group):
            return _train_in(folder, config, group, overrides)
    except (ConfigError, DataError, BlockingIOError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _train_in(folder: Path, config: dict[str, Any], group: Processes, overrides: Sequence[str]) -> int:
    runtime = RuntimeSettings(**config["runtime"])
    if group.share(status_of(folder).get("status") == "done" and runtime.resume != "never"):
        if group.leads:
            print(f"{folder} is finished already; runtime.resume=never trains it anew", file=sys.stderr)
        return DONE
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(runtime.deterministic)
    experiment = build(config)
    run = Run(
        lambda logger: make_trainer(experiment, folder, logger, group),
        folder,
        config,
        experiment.logger,
        runtime,
        group,
        overrides,
    )
    with use_backend(runtime.backend):
        code = run.execute()
        if code == DONE and group.leads and runtime.pictures:
            write_trace(experiment.model, experiment.task, folder, group.device)
    return code


def make_trainer(experiment: Experiment, folder: Path, logger: RunLogger, group: Processes) -> Trainer:
    """Return the trainer of an experiment."""
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
