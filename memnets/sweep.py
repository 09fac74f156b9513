"""Many runs from one command: the points of a grid, each checked before any runs, each in a process of its own."""

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

from hydra.errors import HydraException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from memnets.check import ConfigError, Problem
from memnets.config import Composed, check, compose, with_defaults
from memnets.identity import run_folders
from memnets.overrides import CONFIGS, parse_override
from memnets.training.logger import command_line
from memnets.training.run import DONE, FAILED, INTERRUPTED, status_of


def grid_points(composed: Composed, overrides: Sequence[str]) -> list[list[str]]:
    """Override lists of all points of a sweep: the product of the grid in YAML and of `key=a,b` on the command line.

    What the command line says of a key wins over the sweep's YAML. Each point names its sweep, whose other keys hold
    for all points.

    Raises:
        ConfigError: a grid that can't be read, several sweeps at once, or a sweep without a grid.
    """
    named = [text for text in overrides if text.partition("=")[0].lstrip("+") == "sweep"]
    if named and (not composed.grid or parse_override(named[0]).is_sweep_override()):
        advice = "no grid: name one sweep, whose file begins with '# @package _global_' and has hydra.sweeper.params"
        raise ConfigError([Problem(named[0], advice)])
    texts = {key: f"{key}={value}" for key, value in composed.grid.items()}
    parsed = {override.key_or_group: override for override in map(parse_override, [*texts.values(), *overrides])}
    points: list[list[str]] = [[]]
    for override in parsed.values():
        if override.is_sweep_override():
            key = override.get_key_element()
            try:
                choices = [f"{key}={value}" for value in override.sweep_string_iterator()]
            except HydraException as error:
                raise ConfigError([Problem(key, f"not a grid: {error}")]) from error
        else:
            choices = [str(override.input_line)]
        points = [[*point, choice] for point in points for choice in choices]
    return points


def is_point(composed: Composed, overrides: Sequence[str]) -> bool:
    """Whether overrides are those of one run: no list of values, and one value for every axis of a named sweep."""
    parsed = [parse_override(text) for text in overrides]
    given = {override.key_or_group for override in parsed}
    return not any(override.is_sweep_override() for override in parsed) and set(composed.grid) <= given


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Overrides that hold for every point of a sweep."""
    return [text for text in overrides if not parse_override(text).is_sweep_override()]


@dataclass(frozen=True)
class Job:
    """One point of a sweep: what to type for it, where it lives, and whether to train it even if it is done.

    With `trainer.num_replicas` it has a folder for each; what is printed goes to the first.
    """

    overrides: list[str]
    folders: tuple[Path, ...]
    anew: bool = False

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self.folders[0]

    @property
    def pending(self) -> bool:
        """Whether there is something to do."""
        return self.anew or any(status_of(folder).get("status") != "done" for folder in self.folders)

    @property
    def error(self) -> str:
        """What went wrong."""
        errors = (status_of(folder).get("error") for folder in self.folders)
        return next(filter(None, errors), f"see {self.folder / 'log.txt'}")


def plan(points: Sequence[Sequence[str]], configs: Path = CONFIGS) -> list[Job]:
    """Compose and check every point of a sweep before any runs; points that are the same run appear once.

    Raises:
        ConfigError: with the problems of every point, each named by its overrides.
    """
    jobs: dict[tuple[Path, ...], Job] = {}
    problems: dict[Problem, list[str]] = {}
    for overrides in points:
        try:
            config = compose(overrides, configs).config
            check(config)
            folders = tuple(run_folders(with_defaults(config)))
            anew = with_defaults(config)["runtime"]["resume"] == "never"
            jobs.setdefault(folders, Job(list(overrides), folders, anew))
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(" ".join(overrides))
    if problems:
        raise ConfigError(
            Problem(path, f"{message}   [{len(points)} points, the first: {points[0]}]")
            for (path, message), points in problems.items()
        )
    return list(jobs.values())


class Sweep:
    """Runs jobs in processes of their own, some side by side; finished ones are skipped, cut-off ones resumed."""

    def __init__(self, jobs: Sequence[Job], side_by_side: int, script: Path) -> None:
        self.jobs, self.side_by_side, self.script = jobs, side_by_side, script
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()
        columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._row = TaskID(0)

    def run(self) -> int:
        """Return 0 if every job is done, 75 if it was interrupted, 1 if any failed; failures are listed."""
        pending = [job for job in self.jobs if job.pending]
        print(f"{len(self.jobs)} runs, {len(self.jobs) - len(pending)} finished already", flush=True)
        with self._bar, ThreadPoolExecutor(self.side_by_side) as pool:
            self._row = self._bar.add_task("runs", total=len(pending))
            futures = [pool.submit(self._job, job) for job in pending]
            try:
                codes = [future.result() for future in futures]
            except KeyboardInterrupt:
                self.stop()
                codes = [future.result() for future in futures]
        failed = [job for job, code in zip(pending, codes, strict=True) if code not in (DONE, INTERRUPTED)]
        for job in failed:
            print(f"failed: {job.folder}\n  {shlex.join(job.overrides)}\n  {job.error}", flush=True)
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
        self._tell("running ", job)
        with (job.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment())
            self._running.add(process)
            if self._stopped.is_set():
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        if self._stopped.is_set() and code != DONE:
            code = INTERRUPTED  # stopped on demand, wherever it was
        self._tell(f"{'done' if code == DONE else f'exit {code}':<8}", job)
        self._bar.advance(self._row)
        return code

    def _tell(self, what: str, job: Job) -> None:
        print(f"{what} {job.folder}  {shlex.join(job.overrides)}", flush=True)

    def _environment(self) -> dict[str, str]:
        """Give each job its share of the threads unless the caller said how many; and the sweep's command to record."""
        threads = max(1, (os.cpu_count() or 1) // self.side_by_side)
        return {"OMP_NUM_THREADS": str(threads), **os.environ, "MEMNETS_COMMAND": command_line()}
