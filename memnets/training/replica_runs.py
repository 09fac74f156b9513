"""Replicas in their folders: one process, and for each seed the run it would be alone."""

from __future__ import annotations

from collections.abc import Sequence

from memnets.training.replicas import Replicas
from memnets.training.run import Run, on_signals
from memnets.training.trainer import Trainer


class ReplicaRuns:
    """Runs that train as one. One that ends or fails leaves the others, which go on."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.codes: dict[Run, int] = {}

    def execute(self) -> list[int]:
        """Train; return every run's exit code."""
        try:
            with on_signals(self.interrupt):
                self._begin()
                while self.going:
                    self._train_until_one_ends()
        finally:
            for run in self.runs:
                run.close()
        return [self.codes[run] for run in self.runs]

    @property
    def going(self) -> list[Run]:
        """Those that have not ended yet."""
        return [run for run in self.runs if run not in self.codes]

    def interrupt(self) -> None:
        """Save and stop after this step."""
        for run in self.runs:
            run.interrupt()

    def _begin(self) -> None:
        for run in self.runs:
            try:
                run.begin().begin()
            except Exception as error:
                self.codes[run] = run.fail(error)

    def _train_until_one_ends(self) -> None:
        trainers = {run: run.trainer for run in self.going if run.trainer is not None}
        next(iter(trainers)).speak()
        failed = _step_until_one_ends(list(trainers.values()))
        for run, trainer in trainers.items():
            if trainer in failed:
                self.codes[run] = run.fail(failed[trainer])
            elif not trainer.goes_on:
                self._end(run, trainer)

    def _end(self, run: Run, trainer: Trainer) -> None:
        try:
            self.codes[run] = run.end(trainer.finish())
        except Exception as error:
            self.codes[run] = run.fail(error)


def _step_until_one_ends(trainers: Sequence[Trainer]) -> dict[Trainer, Exception]:
    """Train until one has come to its end, or failed; return those that failed and why."""
    failed: dict[Trainer, Exception] = {}
    try:
        replicas = Replicas(trainers)
        while not failed and all(trainer.goes_on for trainer in trainers):
            failed = replicas.train_step()
    except Exception as error:
        return dict.fromkeys(trainers, error)
    return failed
