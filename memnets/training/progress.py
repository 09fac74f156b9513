"""What a run knows of itself besides its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from memnets.training.settings import EarlyStopping

Outcome = Literal["max_steps", "solved", "early_stopping", "interrupted"]


@dataclass
class Progress:
    """How far a run has come; all of it is part of a checkpoint.

    Attributes:
        step: optimizer steps taken.
        seconds: time spent training, over all its sessions.
        sums: total and count of each training metric since its last row.
        norms: the same of the gradient's norm.
        phase_began: where the model's current phase began.
        best_value: best value in this phase of the metric that early stopping, or the phase's end, looks at.
        best_step: where it was reached; this checkpoint is kept.
        failures: evaluations since.
        solved_at_step: where the task's criterion was first met.
        outcome: why training ended; None while it goes on.
        metrics_position: bytes of `metrics.jsonl` that belong to this point.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=dict)
    norms: list[float] = field(default_factory=lambda: [0.0, 0.0])
    phase_began: int = 0
    best_value: float | None = None
    best_step: int | None = None
    failures: int = 0
    solved_at_step: int | None = None
    outcome: Outcome | None = None
    metrics_position: int = 0

    def add(self, metrics: Mapping[str, Sequence[float]], norm: float) -> None:
        """Add a step's metrics, each a total and a count, and its gradient's norm to the current row."""
        for name, (total, count) in metrics.items():
            kept = self.sums.get(name, [0.0, 0.0])
            self.sums[name] = [kept[0] + total, kept[1] + count]
        self.norms = [self.norms[0] + norm, self.norms[1] + 1]

    def end_row(self) -> tuple[dict[str, list[float]], list[float]]:
        """Return the current row's sums and norms; the next row begins."""
        row = self.sums, self.norms
        self.sums, self.norms = {}, [0.0, 0.0]
        return row

    def end_after(self, max_steps: int) -> None:
        """Note the end once so many steps are taken, unless there was one before."""
        if self.outcome is None and self.step >= max_steps:
            self.outcome = "max_steps"

    def judge(self, criterion: EarlyStopping, value: float) -> bool:
        """Note a value of the criterion's metric; return whether its patience is at an end."""
        if criterion.improves(value, self.best_value):
            self.best_value, self.best_step, self.failures = value, self.step, 0
            return False
        self.failures += 1
        return self.failures >= criterion.patience

    def begin_phase(self) -> None:
        """Begin a phase of the model, which is judged by itself."""
        self.phase_began, self.best_value, self.best_step, self.failures = self.step, None, None, 0


class NonFiniteError(ArithmeticError):
    """A loss, gradient or weight is NaN or infinite; the last checkpoint is whole."""

    def __init__(
        self, step: int, seed: int, loss: float | None = None, norm: float | None = None, data: str = ""
    ) -> None:
        if loss is None or norm is None:
            message = f"a weight is not finite after step {step}, seed {seed}: not saved"
        else:
            what = "loss" if loss != loss or abs(loss) == float("inf") else "gradient"
            message = (
                f"the {what} is not finite at step {step}, seed {seed} (loss {loss}, gradient norm {norm}). "
                f"The step's data begins with {data}"
            )
        super().__init__(f"{message}. Lower optim.lr or set trainer.clip_norm")
