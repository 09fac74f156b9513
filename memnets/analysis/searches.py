"""What an exact search costs against the number of keys: `scripts/search_costs.py`'s records, CSV and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memnets.analysis.figures import COLOURS, new_figure, save_figure, styled
from memnets.analysis.measured import Measured

SEARCHES = "search_costs.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class SearchRecord(Measured):
    """One search without gradients: the fields are the CSV's columns.

    Attributes:
        keys: entries of the memory, all of which every query may choose.
        kernel_ms: of the C++ kernel, for all queries; the best of many, as `reference_ms`.
        reference_ms: all scores by a matrix product, then the best of them; None where they would fill the machine.
        ratio: reference_ms / kernel_ms.
        keys_per_us: keys that a query passes in a microsecond of the kernel.
    """

    keys: int
    queries: int
    word: int
    top_k: int
    kernel_ms: float
    reference_ms: float | None
    ratio: float | None
    keys_per_us: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.keys, self.queries, self.word, self.top_k, self.threads, self.device


@styled
def search_figure(records: Sequence[SearchRecord], path: Path) -> Path:
    """Write a figure of the time per query against the number of keys, both on logarithmic axes."""
    figure = new_figure(5.6, 4.0)
    axis = figure.subplots()
    lines = {"all scores, then the best": "reference_ms", "C++ kernel": "kernel_ms"}
    ordered = sorted(records, key=lambda record: record.keys)
    for (label, name), colour in zip(lines.items(), COLOURS, strict=False):
        found = [(each.keys, 1e3 * getattr(each, name) / each.queries) for each in ordered if getattr(each, name)]
        if found:
            axis.plot(*zip(*found, strict=True), marker="o", markersize=4, color=colour, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("keys in the memory")
    axis.set_ylabel("microseconds per query")
    axis.grid(True)
    if ordered:
        axis.legend()
        one = ordered[0]
        axis.set_title(f"Exact top-{one.top_k} of keys of {one.word} numbers, {one.queries} queries at once")
    return save_figure(figure, path)
