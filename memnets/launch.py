"""From a checked configuration to a finished run, and from a sweep to many."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memnets.config import Experiment, build
from memnets.identity import run_folder
from memnets.ops.backend import use_backend
from memnets.training import checkpoint
from memnets.training.distributed import Processes, processes
from memnets.training.logger import RunLogger
from memnets.training.run import DONE, REFUSED, Run, find_checkpoint, locked, status_of
from memnets.training.settings import RuntimeSettings
from memnets.training.snapshot import restore_model
from memnets.training.trace import write_trace
from memnets.training.trainer import Trainer


def train(config: dict[str, Any], overrides: Sequence[str] = ()) -> int:
    """Run a checked configuration in its folder; return the exit code. A finished run is left as it is."""
    folder = run_folder(config)
    try:
        with processes(config["runtime"]["device"]) as group, locked(folder, group):
            return _train_in(folder, config, group, overrides)
    except (BlockingIOError, ValueError) as error:
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
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(runtime.deterministic)
    run = Run(lambda logger: make_trainer(build(config), folder, logger, group), folder, config, group, overrides)
    with use_backend(runtime.backend):
        code = run.execute()
        if code == DONE and group.leads and runtime.pictures:
            trace_run(folder, config, group.device)
    return code


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
