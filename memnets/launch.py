"""From a checked configuration to a finished run, and from a sweep to many."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memnets.check import ConfigError, Problem
from memnets.config import Experiment, build, check, compose, run_folder, with_defaults
from memnets.tasks.base import DataError
from memnets.training.distributed import Processes, processes
from memnets.training.logger import RunLogger, command_line
from memnets.training.run import DONE, FAILED, INTERRUPTED, REFUSED, Run, locked, status_of, write_trace
from memnets.training.settings import RuntimeSettings
from memnets.training.trainer import Trainer


def train(config: dict[str, Any]) -> int:
    """Run a checked configuration in its folder; return the exit code. A finished run is left as it is."""
    folder = run_folder(config)
    try:
        with processes(config["runtime"]["device"]) as group, locked(folder, group):
            return _train_in(folder, config, group)
    except (ConfigError, DataError, BlockingIOError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _train_in(folder: Path, config: dict[str, Any], group: Processes) -> int:
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
    )
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


@dataclass(frozen=True)
class Job:
    """One point of a sweep: what to type for it, and where it lives."""

    overrides: list[str]
    folder: Path


def plan(points: Sequence[Sequence[str]]) -> list[Job]:
    """Compose and check every point of a sweep before any runs; points that are the same run appear once.

    Raises:
        ConfigError: with the problems of every point, each named by its overrides.
    """
    jobs: dict[Path, Job] = {}
    problems: list[Problem] = []
    for overrides in points:
        try:
            config = compose(overrides).config
            check(config)
            folder = run_folder(with_defaults(config))
            jobs.setdefault(folder, Job(list(overrides), folder))
        except ConfigError as error:
            where = " ".join(overrides)
            problems += [Problem(p.path, f"{p.message}   [{where}]") for p in error.problems]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return list(jobs.values())


class Sweep:
    """Runs jobs in processes of their own, some side by side; finished ones are skipped, cut-off ones resumed."""

    def __init__(self, jobs: Sequence[Job], side_by_side: int, script: Path) -> None:
        self.jobs, self.side_by_side, self.script = jobs, side_by_side, script
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def run(self) -> int:
        """Return 0 if every job is done, 75 if it was interrupted, 1 if any failed; failures are listed."""
        pending = [job for job in self.jobs if status_of(job.folder).get("status") != "done"]
        print(f"{len(self.jobs)} runs, {len(self.jobs) - len(pending)} finished already", flush=True)
        with ThreadPoolExecutor(self.side_by_side) as pool:
            futures = [pool.submit(self._job, job) for job in pending]
            try:
                codes = [future.result() for future in futures]
            except KeyboardInterrupt:
                self.stop()
                codes = [future.result() for future in futures]
        failed = [job for job, code in zip(pending, codes, strict=True) if code not in (DONE, INTERRUPTED)]
        for job in failed:
            error = status_of(job.folder).get("error") or f"see {job.folder / 'log.txt'}"
            print(f"failed: {job.folder}\n  {shlex.join(job.overrides)}\n  {error}", flush=True)
        if failed:
            return FAILED
        return INTERRUPTED if INTERRUPTED in codes else DONE

    def stop(self) -> None:
        """Let the running jobs save and stop, and start no more."""
        self._stopped.set()
        for process in list(self._running):
            process.terminate()

    def _job(self, job: Job) -> int:
        if self._stopped.is_set():
            return INTERRUPTED
        job.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(self.script), *job.overrides]
        with (job.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment())
            self._running.add(process)
            code = process.wait()
            self._running.discard(process)
        if self._stopped.is_set() and code != DONE:
            code = INTERRUPTED  # stopped on demand, wherever it was
        print(f"{'done  ' if code == DONE else f'exit {code}'}  {job.folder}  {shlex.join(job.overrides)}", flush=True)
        return code

    def _environment(self) -> dict[str, str]:
        """Give each job its share of the threads, and the sweep's command to record."""
        threads = max(1, (os.cpu_count() or 1) // self.side_by_side)
        return {**os.environ, "OMP_NUM_THREADS": str(threads), "MEMNETS_COMMAND": command_line()}
