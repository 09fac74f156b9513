"""Learning-rate schedules: pure functions from a step to a factor on the base rate, so that resuming needs no state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """`schedule(step)` is the factor for step number `step`, from 0."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the factor."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The base rate throughout."""

    def __call__(self, step: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear from 0 to the base rate over `warmup_steps`, then constant."""

    warmup_steps: int

    def __call__(self, step: int) -> float:
        """Return (step + 1) / warmup_steps, at most 1."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up, then half a cosine down to `final_factor` at `total_steps` (Loshchilov & Hutter 2017)."""

    total_steps: int
    warmup_steps: int = 0
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"Cosine needs 0 <= warmup_steps < total_steps, not {self.warmup_steps}, {self.total_steps}"
            )

    def __call__(self, step: int) -> float:
        """Return the factor; `final_factor` from `total_steps` on."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Halving(Schedule):
    """Half the rate every `every_steps` (Memory Networks: every 25 epochs, arXiv:1503.08895 section 4.2)."""

    every_steps: int

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"Halving.every_steps must be at least 1, not {self.every_steps}")

    def __call__(self, step: int) -> float:
        """Return 1/2 to the number of whole periods passed."""
        return 0.5 ** (step // self.every_steps)


@dataclass(frozen=True)
class Triangular(Schedule):
    """Up and down between `low` and 1 in straight lines, again and again (Smith 2017, arXiv:1506.01186, section 3).

    Attributes:
        rising_steps: from `low` to 1, and back: half a cycle.
        low: the factor at the start and at the end of a cycle.
    """

    rising_steps: int
    low: float = 0.0

    def __post_init__(self) -> None:
        if self.rising_steps < 1:
            raise ValueError(f"Triangular.rising_steps must be at least 1, not {self.rising_steps}")
        if not 0 <= self.low <= 1:
            raise ValueError(f"Triangular.low must be from 0 to 1, not {self.low}")

    def __call__(self, step: int) -> float:
        """Return `low` at the start of every cycle of 2 `rising_steps`, 1 in its middle."""
        place = step % (2 * self.rising_steps)
        return 1.0 - (1.0 - self.low) * abs(place / self.rising_steps - 1.0)
