"""Which cases of a contract every run of the suite takes; `pytest -m long` takes the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

INTERPRETED = not torch.cuda.is_available()
"""Whether Triton kernels run in its interpreter, which is slow."""
IF_INTERPRETED = [pytest.mark.long] if INTERPRETED else []
"""Marks of a case of Triton kernels that is long without a GPU."""


def but_for_long(values: Iterable[Any], quick: Callable[[Any], bool], name: Callable[[Any], str] = str) -> list[Any]:
    """Values to parametrize a test with, each under its name; those that aren't quick are marked `long`."""
    return [pytest.param(value, id=name(value), marks=() if quick(value) else pytest.mark.long) for value in values]


def but_for_interpreted(
    values: Iterable[Any], quick: Callable[[Any], bool], name: Callable[[Any], str] = str
) -> list[Any]:
    """The same for Triton kernels: where there is a GPU all are quick."""
    return but_for_long(values, lambda value: not INTERPRETED or quick(value), name)


def long_interpreted(test: Any) -> Any:
    """Mark a test of Triton kernels `long` where there is no GPU."""
    return pytest.mark.long(test) if INTERPRETED else test


directions = pytest.mark.parametrize("fast", but_for_long([True, False], bool, {True: "one", False: "all"}.__getitem__))
"""For `gradcheck(..., fast_mode=fast)`: a random direction in every run, that of each entry in the long ones."""
