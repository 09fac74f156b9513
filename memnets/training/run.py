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
from typing import Any

import yaml

from memnets.files import write_atomic
from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError
from memnets.training.distributed import Processes
from memnets.training.logger import RunLogger, environment, now, write_json
from memnets.training.progress import NonFiniteError
from memnets.training.reporter import Reporter
from memnets.training.settings import LoggerSettings, RuntimeSettings
from memnets.training.trainer import Trainer

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

    Raises:
        BlockingIOError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        held = True
        if group.leads:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = False
        if not group.share(held):
            raise BlockingIOError(f"{folder} is in use: another process is training this very configuration")
        yield


def prepare(folder: Path, resume: str) -> Path | None:
    """Make the folder ready and return the checkpoint to continue from.

    `auto` takes the folder's newest; `never` moves an old folder aside; a path is a checkpoint or a run folder.

    Raises:
        CheckpointError: the path given holds no checkpoint.
    """
    if resume == "never" and status_of(folder):
        folder.rename(folder.with_name(f"{folder.name}.old-{now().replace(':', '')}"))
    folder.mkdir(parents=True, exist_ok=True)
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is not None or resume in ("auto", "never"):
        return newest
    return find_checkpoint(Path(resume))


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint from its own path or the newest of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / checkpoint.MANIFEST).exists():
        return path
    found = checkpoint.latest(path / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"no checkpoint at {path}: give a run folder that has some, or a folder like step_00001000"
        )
    return found


class Run:
    """A trainer in its folder, with status, environment and signals."""

    def __init__(
        self,
        make_trainer: Callable[[RunLogger], Trainer],
        folder: Path,
        config: dict[str, Any],
        logger: LoggerSettings,
        runtime: RuntimeSettings,
        group: Processes,
        overrides: Sequence[str] = (),
    ) -> None:
        self.folder, self.config, self.group, self.overrides = folder, config, group, overrides
        self.settings, self.runtime, self.make_trainer = logger, runtime, make_trainer
        self.trainer: Trainer | None = None
        self.started = now()

    def execute(self) -> int:
        """Train; return the exit code. Whatever happens, `status.json` says it."""
        try:
            outcome = self._train()
        except NonFiniteError as error:
            return self._fail(error, NOT_FINITE)
        except CheckpointError as error:
            return self._fail(error, REFUSED)
        except Exception as error:
            return self._fail(error, FAILED)
        interrupted = outcome == "interrupted"
        self._status("interrupted" if interrupted else "done", outcome=outcome, ended=now())
        return INTERRUPTED if interrupted else DONE

    def _train(self) -> str:
        source = self.group.share(prepare(self.folder, self.runtime.resume) if self.group.leads else None)
        if self.group.leads:
            write_atomic(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            facts = {**environment(self.group.device), "overrides": list(self.overrides)}
            write_json(self.folder / "environment.json", facts)
            (self.folder / "traceback.txt").unlink(missing_ok=True)
        logger = RunLogger(self.folder, self.settings if self.group.leads else LoggerSettings(), self.config)
        self.trainer = trainer = self.make_trainer(logger)
        if source is None and self.group.leads:
            logger.rewind(0)
        if source is not None:
            trainer.load(source, continues=source.is_relative_to(self.folder))
        style = self.settings.progress if self.group.leads else "none"
        trainer.reporter = Reporter(trainer.settings.max_steps, style, trainer.progress.step)
        self._status("running")
        try:
            with _signals(trainer):
                return trainer.fit()
        finally:
            trainer.reporter.close()
            logger.close()

    def _fail(self, error: Exception, code: int) -> int:
        if self.group.leads:
            (self.folder / "traceback.txt").write_text(traceback.format_exc())
        self._status("failed", error=f"{type(error).__name__}: {error}", ended=now())
        if code == FAILED:
            traceback.print_exc()
        print(f"error: {error}\n  the traceback is in {self.folder / 'traceback.txt'}", file=sys.stderr)
        return code

    def _status(self, status: str, **facts: Any) -> None:
        if self.group.leads:
            known = {"status": status, "step": 0, "sequences": 0, "pid": os.getpid(), **self._reached()}
            known |= {"started": self.started, "ended": None, "error": None}
            write_json(self.folder / "status.json", {**known, **facts})

    def _reached(self) -> dict[str, Any]:
        """How far the trainer has come, once there is one."""
        if self.trainer is None:
            return {}
        progress = self.trainer.progress
        reached: dict[str, Any] = {
            "step": progress.step,
            "sequences": self.trainer.sequences,
            "seconds": round(progress.seconds, 3),
            "parameters": sum(weight.numel() for weight in self.trainer.model.parameters()),
        }
        if self.trainer.task.solved is not None:
            solved = progress.solved_at_step
            sequences = None if solved is None else solved * self.trainer.sequences // progress.step
            reached |= {"solved_at_step": solved, "solved_at_sequences": sequences}
        return reached


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Save and stop on SIGTERM, SIGUSR1 (a scheduler's warning) and Ctrl-C; a second Ctrl-C stops at once."""

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"\n{signal.Signals(number).name}: saving a checkpoint after this step", file=sys.stderr)
        trainer.interrupt()

    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, handle) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
