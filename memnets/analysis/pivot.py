"""Records as a table with a row per value of one setting, and columns for what else tells experiments apart.

`<!-- table: memn2n_babi by task.number -->` becomes a table per metric, in per cent where the metric is a share:

| task.number | memn2n_babi: mean ± std | chosen | published |

`chosen` is `Statistic.selected`, of the restart that training loss or held-out questions choose.

`by split` takes the splits that metrics are of, as the test sets of bAbI's tasks, for such a setting.
`<!-- table: people_qa by metric -->` becomes one table with a row per experiment and a column per metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from string import digits
from typing import NamedTuple

from memnets.analysis.records import Record
from memnets.analysis.tables import plain, spread

SHARES = ("error", "accuracy", "recall", "complete")
FAILED = 0.05
"""A task with more errors than this is failed, as Weston et al. (arXiv:1502.05698) have it."""


class Cell(NamedTuple):
    """What one experiment has of one metric."""

    mean: float
    std: float | None
    selected: float | None
    published: float | None


Columns = dict[str, dict[str, Cell]]
"""Cells by column and row."""


def pivot(records: Sequence[Record], key: str) -> str:
    """Return a Markdown table per metric of the records whose experiments name `key`; empty if none does."""
    tables = []
    for metric in dict.fromkeys(record.metric for record in records):
        columns = _columns((record for record in records if record.metric == metric), key)
        if columns:
            tables.append(_table(metric, columns, key))
    return "\n\n".join(tables)


def in_split(record: Record) -> Record:
    """Return the record with its metric's split as a setting of its experiment."""
    split, _, metric = record.metric.partition("/")
    return replace(record, experiment=f"{record.experiment} split={split}", metric=metric) if metric else record


def by_metric(records: Sequence[Record]) -> str:
    """Return a Markdown table of means ± std, an experiment a row, without the words that all experiments share."""
    metrics = list(dict.fromkeys(record.metric for record in records))
    found = {record.key: spread(record.mean, record.std) for record in records}
    names = list(dict.fromkeys(record.experiment for record in records))
    shared = set.intersection(*(set(name.split()) for name in names)) if len(names) > 1 else set()
    lines = ["| experiment | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for name in names:
        told = " ".join(word for word in name.split() if word not in shared)
        escaped = (told or name).replace("|", "\\|")
        lines.append(f"| {escaped} | " + " | ".join(found.get((name, metric), "") for metric in metrics) + " |")
    return "\n".join(lines)


def _columns(records: Iterable[Record], key: str) -> Columns:
    columns: Columns = {}
    for record in records:
        words = record.experiment.split()
        values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
        if values:
            column = " ".join(word for word in words if not word.startswith(f"{key}="))
            published = float(record.published) if record.published else None
            columns.setdefault(column, {})[values[0]] = Cell(record.mean, record.std, record.selected, published)
    return columns


def _table(metric: str, columns: Columns, key: str) -> str:
    factor = 100.0 if metric.endswith(SHARES) else 1.0
    rows = sorted({row for cells in columns.values() for row in cells}, key=row_order)
    parts = [f"{name}: mean ± std | chosen | published" for name in columns]
    head = f"| {metric}{' in %' if factor > 1 else ''}, {key} | {' | '.join(parts)} |"
    lines = [head, "|---|" + "---:|" * 3 * len(columns)]
    for row in rows:
        lines.append(_line(row, [_cells(cells.get(row), factor) for cells in columns.values()]))
    sums = {"mean": lambda column: _number(sum(column) / len(column), factor)}
    if metric.endswith("error"):
        sums[f"above {100 * FAILED:.0f} %"] = lambda column: str(sum(value > FAILED for value in column))
    for name, sum_up in sums.items():
        lines.append(_line(name, [_over_rows(cells.values(), len(rows), sum_up) for cells in columns.values()]))
    return "\n".join(lines)


def _line(name: str, parts: Sequence[Sequence[str]]) -> str:
    return f"| {name} | " + " | ".join(cell for part in parts for cell in part) + " |"


def _cells(cell: Cell | None, factor: float) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    std = None if cell.std is None else factor * cell.std
    return spread(factor * cell.mean, std), _number(cell.selected, factor), _number(cell.published, factor)


def _over_rows(cells: Iterable[Cell], num_rows: int, sum_up: Callable[[list[float]], str]) -> list[str]:
    """Sum up a column's means, selected and published values; those that lack a row are left empty."""
    rows = [(cell.mean, cell.selected, cell.published) for cell in cells]
    columns = ([value for value in column if value is not None] for column in zip(*rows, strict=True))
    return [sum_up(column) if len(column) == num_rows else "" for column in columns]


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else plain(round(factor * value, 2))


def row_order(row: str) -> tuple[float, str, float]:
    """Order of rows: numbers by size, then words; those that end in a number by that."""
    try:
        return float(row), "", 0.0
    except ValueError:
        word = row.rstrip(digits)
        return float("inf"), word, float(row[len(word) :] or -1)
