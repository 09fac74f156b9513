"""Learning-rate schedules: their factors at chosen steps, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memnets.training.schedule import Constant, Cosine, Halving, Schedule, Triangular, Warmup


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), {0: 1.0, 99: 1.0}),
        (Warmup(4), {0: 0.25, 3: 1.0, 50: 1.0}),
        (Halving(10), {0: 1.0, 9: 1.0, 10: 0.5, 25: 0.25}),
        (Triangular(4, low=0.2), {0: 0.2, 2: 0.6, 4: 1.0, 7: 0.4, 8: 0.2, 12: 1.0}),
        (Cosine(10), {0: 1.0, 5: 0.5, 10: 0.0, 99: 0.0}),
        (Cosine(12, warmup_steps=2, final_factor=0.1), {0: 0.5, 1: 1.0, 2: 1.0, 7: 0.55, 12: 0.1}),
    ],
)
def test_factors(schedule: Schedule, factors: dict[int, float]) -> None:
    assert {step: pytest.approx(schedule(step)) for step in factors} == factors


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Halving(0), r"Halving\.every_steps must be at least 1, not 0"),
        (lambda: Cosine(3, warmup_steps=3), r"0 <= warmup_steps < total_steps, not 3, 3"),
        (lambda: Triangular(0), r"Triangular\.rising_steps must be at least 1, not 0"),
        (lambda: Triangular(4, low=1.5), r"Triangular\.low must be from 0 to 1, not 1\.5"),
    ],
)
def test_refuses_what_cannot_be(make: Callable[[], Schedule], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
