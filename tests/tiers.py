"""Which cases of a contract every run of the suite takes; `pytest -m long` takes the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def but_for_long(values: Iterable[Any], quick: Callable[[Any], bool], name: Callable[[Any], str] = str) -> list[Any]:
    """Values to parametrize a test with, each under its name; those that aren't quick are marked `long`."""
    return [pytest.param(value, id=name(value), marks=() if quick(value) else pytest.mark.long) for value in values]


directions = pytest.mark.parametrize("fast", but_for_long([True, False], bool, {True: "one", False: "all"}.__getitem__))
"""For `gradcheck(..., fast_mode=fast)`: a random direction in every run, that of each entry in the long ones."""
