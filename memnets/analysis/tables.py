"""Statistics over seeds, and how numbers are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from memnets.analysis.groups import Group
from memnets.analysis.output_memories import with_memories
from memnets.analysis.runs import Run, choice, final, number

if TYPE_CHECKING:
    from rich.table import Table

LESS_IS_BETTER = ("loss", "error", "errors", "perplexity", "bits", "nats", "bpc", "seconds", "sequences_to_solve")
MORE_IS_BETTER = ("accuracy", "f1", "exact_match", "recall", "hits", "mrr", "solved", "complete")
"""Which way is better, by the last words of a metric's name but for a number; with neither no seed is called best."""

HEADER = ("experiment", "metric", "seeds", "mean ± std", "median (quartiles)", "best")


@dataclass(frozen=True)
class Statistic:
    """What seeds make of one metric.

    Attributes:
        metric: `<split>/<name>`, or `solved`, `sequences_to_solve`, `seconds`.
        seeds: how many runs the numbers are over.
        std: sample standard deviation (n - 1); None for one seed.
        lower_quartile: a quarter of the runs lie below it, interpolated; None for one seed, like the upper one.
        best: the least or greatest value, whichever is better; None where neither is.
        selected: the value of the run with the least training loss in its last row, or the best validation metric if
            early stopping watched one, which is how a paper that reports the best of several restarts may choose among
            them; None if the runs tell neither.
    """

    metric: str
    seeds: int
    mean: float
    std: float | None
    median: float
    lower_quartile: float | None
    upper_quartile: float | None
    best: float | None
    selected: float | None = None


def statistic(metric: str, values: Sequence[float], choices: Sequence[float] = ()) -> Statistic:
    """Return the statistics of at least one value; a NaN among them makes mean, std and median NaN.

    Of `choices`, one for each run, the least selects.
    """
    sample = np.asarray(values, dtype=np.float64)
    std = (
        float((sample - sample[0]).std(ddof=1)) if len(sample) > 1 else None
    )  # equal values have none, to the last bit
    pick = {"less": np.nanmin, "more": np.nanmax}.get(better(metric) or "")
    best = float(pick(sample)) if pick and not np.isnan(sample).all() else None
    lower, median, upper = (float(value) for value in np.quantile(sample, [0.25, 0.5, 0.75]))
    several = len(sample) > 1
    return Statistic(
        metric,
        len(sample),
        float(sample.mean()),
        std,
        median,
        lower_quartile=lower if several else None,
        upper_quartile=upper if several else None,
        best=best,
        selected=values[int(np.nanargmin(choices))] if np.isfinite(choices).any() else None,
    )


def statistics(group: Group, patterns: Sequence[str] = ()) -> list[Statistic]:
    """Return the statistics of a group's finished runs, metrics in the order in which they were written.

    `patterns` are names or globs (`test/*`); none takes all but validation. Seeds that never solved their task count in
    `solved`, the share that did, and not in `sequences_to_solve`.
    """
    results = [measurements(run) for run in group.done]
    choices = [choice(run) for run in group.done]
    names = dict.fromkeys(name for result in results for name in result)

    def of(name: str) -> Statistic:
        pairs = [(result[name], told) for result, told in zip(results, choices, strict=True) if name in result]
        return statistic(name, *zip(*pairs, strict=True))

    return [of(name) for name in names if _chosen(name, patterns)]


def measurements(run: Run) -> dict[str, float]:
    """Return a finished run's last metrics on each split, with memories behind its head, and what its status tells."""
    values = {**final(run), **with_memories(run)}
    if "solved_at_sequences" in run.status:
        sequences = run.status["solved_at_sequences"]
        values["solved"] = float(sequences is not None)
        if sequences is not None:
            values["sequences_to_solve"] = float(sequences)
    if run.status.get("seconds") is not None:
        values["seconds"] = number(run.status["seconds"])
    return values


def better(metric: str) -> Literal["less", "more"] | None:
    """Return which way a metric gets better, None if its name doesn't tell."""
    name = "_" + re.sub(r"_\d+$", "", metric.rpartition("/")[2])
    if any(name.endswith(f"_{word}") for word in LESS_IS_BETTER):
        return "less"
    return "more" if any(name.endswith(f"_{word}") for word in MORE_IS_BETTER) else None


def cells(experiment: str, result: Statistic) -> tuple[str, ...]:
    """Return a row of text under `HEADER`."""
    center, best = spread(result.mean, result.std), "" if result.best is None else plain(result.best)
    return experiment, result.metric, str(result.seeds), center, _median(result), best


def _median(result: Statistic) -> str:
    """Return the median, with quartiles where runs differ: `44,000 (34,000 to 55,000)`."""
    lower, upper = result.lower_quartile, result.upper_quartile
    if lower is None or upper is None or lower == upper:
        return plain(result.median)
    return f"{plain(result.median)} ({plain(lower)} to {plain(upper)})"


def spread(mean: float, std: float | None) -> str:
    """Return `mean ± std`, both to the second digit of the std: `0.0042 ± 0.0013`, `48,200 ± 9,100`."""
    if std is None or not math.isfinite(std) or not math.isfinite(mean) or std == 0:
        return plain(mean) if std is None else f"{plain(mean)} ± {plain(std)}"
    digits = 1 - math.floor(math.log10(std))
    if digits > 6:
        return f"{mean:.3g} ± {std:.2g}"
    return f"{_rounded(mean, digits)} ± {_rounded(std, digits)}"


def plain(value: int | float) -> str:
    """Return a number with four digits, whole from 1,000 on: `0.03125`, `48,210`, `1.2e-07`."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or (abs(value) < 1e15 and float(value).is_integer()):
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns of plain text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its header first: drawn on a terminal, a part per experiment; plain columns elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if not console.is_terminal:
        print(aligned(rows))
        return
    for experiment, part in groupby(rows[1:], key=lambda row: row[0]):
        console.print(f"\n[bold]{escape(experiment)}[/bold]", highlight=False)
        console.print(_drawn(rows[0][1:], [row[1:] for row in part]))


def _drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, header_style="bold cyan", pad_edge=False)
    for column, name in enumerate(header):
        drawn.add_column(name, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _chosen(name: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return not name.startswith("validation/")
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _rounded(value: float, digits: int) -> str:
    """Round to `digits` decimals (negative: tens, hundreds ...); never minus zero."""
    return f"{round(value, digits) + 0.0:,.{max(digits, 0)}f}"
