"""The benchmark's command line: what to time, at which sizes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.benchmark.cases import names, sizes_of
from memnets.ops.draw import Sizes

DEFAULTS = {
    "case": "",
    "batch": "",
    "time": "",
    "slots": "",
    "threads": "1",
    "seconds": "6",
    "compile": "false",
    "device": "",
    "csv": "",
}


@dataclass(frozen=True)
class Choice:
    """What a command line asks for.

    Attributes:
        named: whether cases were named; else there are all of them.
        batch, time, slots: sizes in the place of each case's own; none keeps those.
    """

    cases: list[str]
    named: bool
    batch: list[int]
    time: list[int]
    slots: list[int]
    threads: list[int]
    seconds: float
    compiles: bool
    device: str
    csv: Path | None

    def problems(self) -> Iterator[tuple[str, Sizes, int]]:
        """Yield case, sizes and threads of every row."""
        for count in self.threads:
            for case in self.cases:
                for sizes in sizes_of(case, self.batch, self.time, self.slots):
                    yield case, sizes, count


def read_choice(words: Sequence[str]) -> Choice:
    """Return what a command line asks for.

    Raises:
        UsageError: an unknown key or case, a value that can't be, or a device that isn't there.
    """
    paths, values = read_arguments(words, DEFAULTS)
    if paths:
        raise UsageError(f"{paths[0]}: no paths are taken; --help tells more")
    return Choice(
        cases=_cases(values["case"]),
        named=bool(values["case"]),
        batch=numbers("batch", values["batch"]),
        time=numbers("time", values["time"]),
        slots=numbers("slots", values["slots"]),
        threads=numbers("threads", values["threads"]),
        seconds=seconds(values["seconds"]),
        compiles=one_of("compile", values["compile"], ("true", "false")) == "true",
        device=_device(values["device"]),
        csv=Path(values["csv"]) if values["csv"] else None,
    )


def _cases(text: str) -> list[str]:
    given = text.split(",") if text else names()
    return [one_of("case", name, names()) for name in given]


def one_of(key: str, value: str, known: Sequence[str]) -> str:
    """Return a value that must be one of those known.

    Raises:
        UsageError: it isn't.
    """
    if value not in known:
        raise UsageError(f"{key}={value}: choose from {', '.join(known)}")
    return value


def numbers(key: str, text: str) -> list[int]:
    """Return whole numbers from 1 on, of a list with commas.

    Raises:
        UsageError: it is none.
    """
    words = text.split(",") if text else []
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{key}={text}: give whole numbers from 1 on, separated by commas")
    return [int(word) for word in words]


def seconds(text: str) -> float:
    """Return a number of seconds.

    Raises:
        UsageError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"seconds={text}: give a number") from None


def _device(text: str) -> str:
    there = torch.cuda.is_available()
    device = one_of("device", text or ("cuda" if there else "cpu"), ("cpu", "cuda"))
    if device == "cuda" and not there:
        raise UsageError("device=cuda: torch finds no GPU")
    return device
