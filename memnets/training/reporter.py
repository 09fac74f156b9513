"""How a run shows itself: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0


class Reporter:
    """Shows how far a run has come, and what its metrics are."""

    def __init__(self, total: int, style: Literal["auto", "bar", "lines", "none"], start: int = 0) -> None:
        style = ("bar" if sys.stderr.isatty() else "lines") if style == "auto" else style
        self._total, self._lines, self._last = total, style == "lines", 0.0
        self._bar = _bar() if style == "bar" else None
        self._facts = ""
        if self._bar:
            self._bar.start()
            self._row = self._bar.add_task("train", total=total, completed=start, facts="")

    def step(self, done: int) -> None:
        """Show the number of steps done."""
        if self._bar:
            self._bar.update(self._row, completed=done, facts=self._facts)

    def metrics(self, row: dict[str, Any]) -> None:
        """Show a row of metrics; lines come every ten seconds at most, evaluations always."""
        left_out = ("step", "sequences", "split", "learning_rate", "gradient_norm")
        numbers = [f"{k} {v:.4g}" for k, v in row.items() if k not in left_out and isinstance(v, int | float)]
        text = f"{row['split']}: {'  '.join(numbers)}"
        due = row["split"] != "train" or time.monotonic() - self._last > LINE_SECONDS
        if self._lines and due:
            self._last = time.monotonic()
            print(f"step {row['step']}/{self._total}  {text}", file=sys.stderr, flush=True)
        if row["split"] == "train":
            self._facts = "  ".join(numbers[:2])
        elif self._bar:
            self._bar.console.print(f"step {row['step']:>7}  {text}", highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        if self._bar:
            self._bar.stop()


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
