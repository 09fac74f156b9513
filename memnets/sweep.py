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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from memnets.check import ConfigError, Problem
from memnets.config import Composed, check, compose, parse_override, run_folder, with_defaults
from memnets.training.logger import command_line
from memnets.training.run import DONE, FAILED, INTERRUPTED, status_of


def grid_points(composed: Composed, overrides: Sequence[str]) -> list[list[str]]:
    """Override lists of all points of a sweep: the product of the grid in YAML and of `key=a,b` on the command line.

    What the command line says of a key wins over the sweep's YAML.
    """
    texts = {key: f"{key}={value}" for key, value in composed.grid.items()}
    parsed = {override.key_or_group: override for override in map(parse_override, [*texts.values(), *overrides])}
    points: list[list[str]] = [[]]
    for override in parsed.values():
        if override.is_sweep_override():
            key = override.get_key_element()
            choices = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            choices = [str(override.input_line)]
        points = [[*point, choice] for point in points for choice in choices]
    return [[text for text in point if not text.startswith("sweep=")] for point in points]


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Overrides that hold for every point of a sweep."""
    return [text for text in overrides if not parse_override(text).is_sweep_override()]


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
        columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._row = TaskID(0)

    def run(self) -> int:
        """Return 0 if every job is done, 75 if it was interrupted, 1 if any failed; failures are listed."""
        pending = [job for job in self.jobs if status_of(job.folder).get("status") != "done"]
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
        self._tell("running ", job)
        with (job.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment())
            self._running.add(process)
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
        """Give each job its share of the threads, and the sweep's command to record."""
        threads = max(1, (os.cpu_count() or 1) // self.side_by_side)
        return {**os.environ, "OMP_NUM_THREADS": str(threads), "MEMNETS_COMMAND": command_line()}
