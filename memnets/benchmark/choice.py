"""The benchmark's command line: what to time, at which sizes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from memnets.analysis.arguments import UsageError, numbers, one_of, read_keys, seconds
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
        csv: a table's path; empty for none.
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
    csv: str

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
    values = read_keys(words, DEFAULTS)
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
        csv=values["csv"],
    )


def _cases(text: str) -> list[str]:
    given = text.split(",") if text else names()
    return [one_of("case", name, names()) for name in given]


def _device(text: str) -> str:
    there = torch.cuda.is_available()
    device = one_of("device", text or ("cuda" if there else "cpu"), ("cpu", "cuda"))
    if device == "cuda" and not there:
        raise UsageError("device=cuda: torch finds no GPU")
    return device
