"""One run in its folder, from the first line of its status to the last: lock, resume, signals, faults, exit code.

Exit codes: 0 done; 1 failed, the traceback is in the folder; 2 the configuration or data is at fault; 3 NaN or
infinity; 75 interrupted, saved, and ready to be resumed by the same command.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from memnets.check import ConfigError
from memnets.files import write_atomic
from memnets.tasks.base import DataError
from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError
from memnets.training.distributed import Processes
from memnets.training.logger import RunLogger, environment, now, write_json
from memnets.training.progress import NonFiniteError, Outcome
from memnets.training.references import REFERENCES, run_references
from memnets.training.replicas import ReplicaError
from memnets.training.reporter import Reporter
from memnets.training.settings import LoggerSettings, RuntimeSettings
from memnets.training.trainer import Trainer

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
DONE, FAILED, REFUSED, NOT_FINITE, INTERRUPTED = 0, 1, 2, 3, 75


def status_of(folder: Path) -> dict[str, Any]:
    """Return a run folder's `status.json`; empty if there is none."""
    path = folder / "status.json"
    if not path.exists():
        return {}
    return json.loads(path.read_text())


@contextmanager
def locked(folder: Path, group: Processes) -> Iterator[None]:
    """Let the leading process hold a run folder, so that two runs never train in it at once.

    The lock lies beside the folder, which may be moved aside while it is held.

    Raises:
        BlockingIOError: another run holds it.
    """
    path = folder.parent / ".locks" / folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        held = True
        if group.leads:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = False
        if not group.share(held):
            raise BlockingIOError(f"{folder} is in use: another process is training this very configuration")
        yield


class Source(NamedTuple):
    """A checkpoint to go on from; `own` if it is this very run's."""

    path: Path
    own: bool


def prepare(folder: Path, resume: str) -> Source | None:
    """Make the folder ready and return what to go on from.

    The folder's own newest checkpoint comes first. `never` moves an old folder aside; a path is a checkpoint or a run
    folder to start from.

    Raises:
        CheckpointError: the path given holds no checkpoint.
    """
    if resume == "never" and status_of(folder):
        folder.rename(folder.with_name(f"{folder.name}.old-{now().replace(':', '')}"))
    folder.mkdir(parents=True, exist_ok=True)
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is not None:
        return Source(newest, own=True)
    return None if resume in ("auto", "never") else Source(find_checkpoint(Path(resume)), own=False)


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint from its own path; of a finished run the one that was tested, of another the newest.

    Raises:
        CheckpointError: there is none.
    """
    if (path / checkpoint.MANIFEST).exists():
        return path
    status = status_of(path)
    found = checkpoint.latest(path / "checkpoints")
    if status.get("status") == "done":
        found = path / "checkpoints" / status["tested_checkpoint"]
    if found is None:
        raise CheckpointError(f"no checkpoint at {path}: give a run folder that has one, or its folder step_…")
    return found


class Run:
    """A trainer in its folder, with status, environment and signals."""

    def __init__(
        self,
        make_trainer: Callable[[RunLogger], Trainer],
        folder: Path,
        config: dict[str, Any],
        group: Processes,
        overrides: Sequence[str] = (),
    ) -> None:
        self.folder, self.config, self.group, self.overrides = folder, config, group, overrides
        self.logger, self.runtime = LoggerSettings(**config["logger"]), RuntimeSettings(**config["runtime"])
        self.make_trainer = make_trainer
        self.trainer: Trainer | None = None
        self.started = now()
        self._logger: RunLogger | None = None
        self._interrupted = False

    def execute(self) -> int:
        """Train; return the exit code. Whatever happens, `status.json` says it."""
        try:
            with on_signals(self.interrupt):
                trainer = self.begin()
                self.speak()
                return self.end(trainer.fit())
        except Exception as error:
            return self.fail(error)
        finally:
            self.close()

    def begin(self) -> Trainer:
        """Make the folder ready; return the trainer at the point it goes on from."""
        source = self.group.share(prepare(self.folder, self.runtime.resume) if self.group.leads else None)
        if self.group.leads:
            write_atomic(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            facts = {"overrides": list(self.overrides), "processes": self.group.count}
            write_json(self.folder / "environment.json", {**environment(self.group.device), **facts})
            (self.folder / "traceback.txt").unlink(missing_ok=True)
        self._status("running")
        self._logger = RunLogger(self.folder, self.logger if self.group.leads else LoggerSettings(), self.config)
        self.trainer = trainer = self.make_trainer(self._logger)
        if source is not None:
            trainer.load(source.path, continues=source.own)
            if self.group.leads and self.logger.progress != "none":
                print(f"going on from {source.path}", file=sys.stderr)
        elif self.group.leads:
            self._logger.rewind(0)
        if self._interrupted:
            trainer.interrupt()
        self._status("running")
        return trainer

    def speak(self) -> None:
        """Show from now on how far the run has come."""
        if self.trainer is not None and self.trainer.reporter is None:
            style = self.logger.progress if self.group.leads else "none"
            self.trainer.reporter = Reporter(self.trainer.settings.max_steps, style, self.trainer.progress.step)

    def end(self, outcome: Outcome) -> int:
        """Tell why training ended; return the exit code."""
        interrupted = outcome == "interrupted"
        if not interrupted and self.trainer is not None and self.group.leads:
            task, batch_size = self.trainer.task, self.trainer.settings.eval_batch_size
            write_json(self.folder / REFERENCES, run_references(task, batch_size))
        if interrupted and self.trainer is not None and self.group.leads:
            print(f"saved at step {self.trainer.progress.step}: the same command goes on from there", file=sys.stderr)
        self._status("interrupted" if interrupted else "done", outcome=outcome, ended=now())
        return INTERRUPTED if interrupted else DONE

    def fail(self, error: Exception) -> int:
        """Tell what an exception was, where a person looks; return the exit code."""
        code = _code(error)
        if self.group.leads:
            (self.folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
        self._status("failed", error=f"{type(error).__name__}: {error}", ended=now())
        if code == FAILED:
            traceback.print_exception(error)
        print(f"error: {error}\n  the traceback is in {self.folder / 'traceback.txt'}", file=sys.stderr)
        return code

    def interrupt(self) -> None:
        """Save and stop after this step."""
        self._interrupted = True
        if self.trainer is not None:
            self.trainer.interrupt()

    def close(self) -> None:
        """Stop drawing, and finish what the metrics services hold."""
        if self.trainer is not None and self.trainer.reporter is not None:
            self.trainer.reporter.close()
        if self._logger is not None:
            self._logger.close()

    def _status(self, status: str, **facts: Any) -> None:
        if self.group.leads:
            known = {"status": status, "step": 0, "sequences": 0, "pid": os.getpid(), **self._reached()}
            known |= {"started": self.started, "ended": None, "error": None}
            write_json(self.folder / "status.json", {**known, **facts})

    def _reached(self) -> dict[str, Any]:
        """How far the trainer has come; before there is one, what an earlier session reached."""
        if self.trainer is None:
            before = status_of(self.folder)
            return {key: before[key] for key in ("step", "sequences", "seconds", "tested_checkpoint") if key in before}
        progress = self.trainer.progress
        reached: dict[str, Any] = {
            "step": progress.step,
            "sequences": self.trainer.sequences,
            "seconds": round(progress.seconds, 3),
            "tested_checkpoint": self.trainer.tested_checkpoint.name,
            "parameters": sum(weight.numel() for weight in self.trainer.model.parameters()),
        }
        if self.trainer.task.solved is not None:
            solved = progress.solved_at_step
            sequences = None if solved is None else solved * self.trainer.sequences // progress.step
            reached |= {"solved_at_step": solved, "solved_at_sequences": sequences}
        return reached


@contextmanager
def on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Save and stop on SIGTERM, SIGUSR1 (a scheduler's warning) and Ctrl-C; a second Ctrl-C stops at once."""

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"\n{signal.Signals(number).name}: saving a checkpoint after this step", file=sys.stderr)
        interrupt()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code(error: Exception) -> int:
    if isinstance(error, NonFiniteError):
        return NOT_FINITE
    return REFUSED if isinstance(error, CheckpointError | ConfigError | DataError | ReplicaError) else FAILED
