"""What a Transformer's memories cost, as records: what `scripts/memory_costs.py` measures, its CSV, its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memnets.analysis.measured import Measured, origins
from memnets.analysis.tables import plain

COSTS = "memory_costs.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class CostRecord(Measured):
    """A training step, forward and backward, with a memory and without: the fields are the CSV's columns.

    Attributes:
        memory: what it is called, such as `knn 8192`.
        state: `fresh`: sequences begin with the step; `carried`: they go on, windows and memories are full.
        plain_ms: the same decoder without a memory, in turns with it; the best of many, as `memory_ms`.
        ratio: memory_ms / plain_ms.
        peak_mb: most memory that a process of its own held while it made such steps, beyond what it held before.
        plain_peak_mb: the same without a memory.
        model: the overrides that make the model.
    """

    memory: str
    state: str
    plain_ms: float
    memory_ms: float
    ratio: float
    plain_peak_mb: float
    peak_mb: float
    model: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.memory, self.state, self.threads, self.device


_SHOWN = {
    "memory": "memory",
    "state": "state",
    "without ms": "plain_ms",
    "with ms": "memory_ms",
    "ratio": "ratio",
    "without MB": "plain_peak_mb",
    "with MB": "peak_mb",
}


def render_costs(records: Sequence[CostRecord]) -> str:
    """Return the records in Markdown, and the commands that made them."""
    head = ["| " + " | ".join(_SHOWN) + " |", "|---|---|" + "---:|" * (len(_SHOWN) - 2)]
    body = ["| " + " | ".join(_cell(getattr(record, name)) for name in _SHOWN.values()) + " |" for record in records]
    return "\n".join([*head, *body, "", *origins(records)])


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else plain(float(f"{value:.3g}"))
