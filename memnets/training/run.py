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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from memnets.contracts import Batch, named_tensors
from memnets.models.base import SequenceModel, trace
from memnets.tasks.base import Task
from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError, write_atomic
from memnets.training.distributed import Processes, plain
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
    ) -> None:
        self.folder, self.config, self.group = folder, config, group
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
            write_json(self.folder / "environment.json", environment(self.group.device))
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
        if not self.group.leads:
            return
        known: dict[str, Any] = {"status": status, "step": 0, "sequences": 0, "pid": os.getpid()}
        if self.trainer is not None:
            progress, per_step = self.trainer.progress, self.trainer.sequences // max(1, self.trainer.progress.step)
            solved = progress.solved_at_step
            known |= {
                "step": progress.step,
                "sequences": self.trainer.sequences,
                "solved_at_step": solved,
                "solved_at_sequences": None if solved is None else solved * per_step,
                "seconds": round(progress.seconds, 3),
                "parameters": sum(weight.numel() for weight in self.trainer.model.parameters()),
            }
        write_json(
            self.folder / "status.json", {**known, "started": self.started, "ended": None, "error": None, **facts}
        )


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


def write_trace(model: SequenceModel, task: Task, folder: Path, device: torch.device) -> Path | None:
    """Write `trace.safetensors`: one test sequence, the model's outputs, and where its heads were at every step.

    Returns None for a model whose state holds no read and write weights.
    """
    from safetensors.torch import save_file

    model = plain(model).eval()
    batch = longest_batch(task).to(device)
    if not isinstance(batch.inputs, torch.Tensor) or batch.inputs.dim() != 3:
        return None
    with torch.no_grad():
        outputs, states = trace(model, batch.inputs[:1])
    named = [named_tensors(state) for state in states]
    kept = {"inputs": batch.inputs[0], "targets": batch.targets[0], "outputs": torch.sigmoid(outputs[0])}
    for kind in ("read_weights", "write_weights"):
        keys = [key for key in named[0] if key.endswith(kind)]
        if len(keys) != 1:
            return None
        kept[kind] = torch.stack([state[keys[0]][0] for state in named])
    path = folder / "trace.safetensors"
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in kept.items()}, path)
    return path


def longest_batch(task: Task, among: int = 20) -> Batch:
    """Return the longest of a few test sequences: the one worth looking at."""
    candidates = [task.batch("test", index, 1, 0) for index in range(min(among, task.num_batches("test", 1)))]
    return max(candidates, key=lambda batch: batch.mask.shape[-1])
