"""How fast memories are searched and changed, as records: what `scripts/retrieval_speed.py` measures, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memnets.analysis.measured import Measured, origins
from memnets.analysis.tables import plain

SPEEDS = "retrieval_speed.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class SpeedRecord(Measured):
    """One kind of call, many times, in milliseconds: the fields are the CSV's columns.

    Attributes:
        what: `dense 32` is a call with 32 queries; `write, bm25` writes an entry and then asks for it.
        beside_ms: median of FAISS's exact search, in turns; None where there is nothing to compare with.
        ratio: median_ms / beside_ms.
    """

    what: str
    entries: int
    calls: int
    median_ms: float
    p99_ms: float
    most_ms: float
    beside_ms: float | None
    ratio: float | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.what, self.entries, self.threads, self.device


def render_speeds(records: Sequence[SpeedRecord]) -> str:
    """Return the records as a Markdown table, and below it the commands that made them."""
    lines = ["| what | entries | median ms | 99 % below | most | FAISS flat ms | ratio |", "|---|" + "---:|" * 6]
    for one in records:
        numbers = (one.entries, one.median_ms, one.p99_ms, one.most_ms, one.beside_ms, one.ratio)
        cells = " | ".join("" if number is None else plain(number) for number in numbers)
        lines.append(f"| {one.what} | {cells} |")
    return "\n".join([*lines, "", *origins(records)])
