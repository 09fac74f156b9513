"""Tables of results as Markdown, kept between markers in documents.

```
<!-- table: foundation -->
... written by `scripts/tables.py` from results/foundation.csv ...
<!-- end table -->
```

A second word, `<!-- table: kernels ntm_step -->`, takes the lines of one case or of experiments (`a,b`); `by`, as in
`<!-- table: memn2n_babi by task.number -->`, gives each value of a setting a row, `by split` each split of a metric,
and `by metric` each experiment. An experiment's name without its settings takes all lines that begin with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memnets.analysis.costs import COSTS, CostRecord, render_costs
from memnets.analysis.encoding_speeds import ENCODING_SPEEDS, EncodingRecord, render_encodings
from memnets.analysis.kernels import KERNELS, KernelRecord, render_kernels
from memnets.analysis.measured import read_measured
from memnets.analysis.memories import memory_tables, render_memories
from memnets.analysis.pivot import by_metric, in_split, pivot, row_order
from memnets.analysis.records import Record, read_records, tables
from memnets.analysis.retrieval_speeds import SPEEDS, SpeedRecord, render_speeds
from memnets.analysis.retrievals import RETRIEVALS, RetrievalRecord, render_retrievals
from memnets.analysis.tables import HEADER, cells, plain

BEGIN = re.compile(r"<!-- table: (\S+)(?: (?!by )(\S+))?(?: by (\S+))? -->")
END = "<!-- end table -->"
COMPONENT = re.compile(r"\{_target_: ?(?:\w+\.)*(\w+)(?:, ?_partial_: ?\w+)?(?:, ?([^{}]+))?\}")

MEASURED: dict[str, tuple[type[Any], Callable[[Sequence[Any]], str]]] = {
    KERNELS: (KernelRecord, render_kernels),
    COSTS: (CostRecord, render_costs),
    RETRIEVALS: (RetrievalRecord, render_retrievals),
    SPEEDS: (SpeedRecord, render_speeds),
    ENCODING_SPEEDS: (EncodingRecord, render_encodings),
}
"""Tables of what was measured on one machine: what their lines are, and how they look."""


class MarkerError(Exception):
    """A marker without its end, or of a table that isn't there. Its message names file and line."""


def render(records: Sequence[Record]) -> str:
    """Return a Markdown table of the records, and below it the commands that made them."""
    rows = [(*HEADER, "published"), *(_cells(record) for record in records)]
    head, *body = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    rule = "|" + "|".join("---" if column < 2 else "---:" for column in range(len(rows[0]))) + "|"
    return "\n".join([head, rule, *body, "", *_origins(records)])


def documents(root: Path) -> list[Path]:
    """Return the files that may hold tables: the README and the pages of docs."""
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("**/*.md"))) if path.exists()]


def updated(path: Path, results: Path) -> str:
    """Return a document's text with what stands between its markers rendered anew.

    Raises:
        MarkerError: a marker without its end, an end without its marker, or no such table in `results`.
    """
    measured = {Path(name).stem: results / name for name in MEASURED if (results / name).exists()}
    known = tables(results) | measured | memory_tables(results)
    text = path.read_text(encoding="utf-8")
    kept: list[str] = []
    opened = 0
    for line, content in enumerate(text.splitlines(), start=1):
        marker = BEGIN.fullmatch(content)
        if marker:
            _require(not opened, f"{path}:{line}: {content} stands inside the table of line {opened}")
            _require(marker[1] in known, f"{path}:{line}: no table {marker[1]!r} in {results} ({', '.join(known)})")
            found = _rendered(marker[1], known[marker[1]], marker[2], marker[3])
            asked = marker[2] or marker[3]
            _require(bool(found), f"{path}:{line}: no line of {known[marker[1]]} is of {asked}")
            kept += [content, found]
            opened = line
        elif content == END:
            _require(bool(opened), f"{path}:{line}: {END} ends no table")
            opened = 0
        if not opened:
            kept.append(content)
    _require(not opened, f"{path}:{opened}: this table has no {END}")
    return "\n".join(kept) + "\n" * text.endswith("\n")


def difference(path: Path, text: str) -> str:
    """Return how a document would change, as a diff; empty if it wouldn't."""
    old, new = path.read_text(encoding="utf-8"), text
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), f"{path} (from results)", lineterm="")
    return "\n".join(lines) or ("line endings or the end of the file differ" if old != new else "")


def briefly(experiment: str) -> str:
    """Return an experiment's name with its components as a reader names them: `model.addressing=Addressing(gate=null)`.

    Whole, they stand in the lines of results and in the commands below a table.
    """

    def brief(found: re.Match[str]) -> str:
        settings = ",".join("=".join(re.split(": ?", part, maxsplit=1)) for part in re.split(", ?", found[2] or ""))
        return f"{found[1]}({settings})" if settings else found[1]

    while (shorter := COMPONENT.sub(brief, experiment)) != experiment:  # the innermost first
        experiment = shorter
    return experiment


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MarkerError(message)


def _rendered(name: str, path: Path, only: str | None, key: str | None) -> str:
    """Return a table in Markdown, of one case, of experiments or of all, or by a key; empty if there is none."""
    if name in memory_tables(path.parent):
        return render_memories(path.parent)
    if path.name in MEASURED:
        kind, rendered = MEASURED[path.name]
        lines = [line for line in read_measured(path, kind) if only in (None, line.key[0])]
        return rendered(lines) if lines else ""
    chosen = (line for line in read_records(path) if only is None or _is_of(line.experiment, only))
    records = [replace(line, experiment=briefly(line.experiment)) for line in chosen]
    if key is None:
        return render(records) if records else ""
    if key == "metric":
        return "\n".join([by_metric(records), "", *_origins(records)]) if records else ""
    if key == "split":
        records = [in_split(record) for record in records]
    told = [record for record in records if any(word.startswith(f"{key}=") for word in record.experiment.split())]
    return "\n".join([pivot(told, key), "", *_origins(told, key)]) if told else ""


def _is_of(experiment: str, only: str) -> bool:
    """Whether an experiment is one of those that a marker takes, with its settings or without."""
    return only == experiment or experiment.split()[0] in only.split(",")


def _cells(record: Record) -> tuple[str, ...]:
    try:
        published = plain(float(record.published)) if record.published else ""
    except ValueError:  # "< 30000" and the like stand as they are
        published = record.published
    return *cells(record.experiment, record.statistic), published


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _origins(records: Sequence[Record], left_out: str = "") -> list[str]:
    """Return one line per command: what it made, at which commit, when and on what.

    Of experiments and commands that differ in the setting left out alone, one line tells, with all values of that.
    """
    made: dict[tuple[bool, str, str, str, str], tuple[list[str], list[str]]] = {}
    for record in records:
        experiment, _ = _parted(record.experiment, left_out)
        command, values = _parted(record.command, left_out)
        told = made.setdefault((bool(values), command, record.commit, record.date, record.device), ([], []))
        told[0].append(experiment)
        told[1].extend(values)
    lines = []
    for (_, command, commit, date, device), (names, values) in made.items():
        setting = f" {left_out}={','.join(sorted(set(values), key=row_order))}" if values else ""
        lines.append(f"- {', '.join(dict.fromkeys(names))}: `{command}{setting}` at {commit}, {date}, {device}")
    return lines


def _parted(text: str, key: str) -> tuple[str, list[str]]:
    """Return words without a key's, and the values that this gave."""
    words = text.split()
    values = [word.partition("=")[2] for word in words if key and word.startswith(f"{key}=")]
    return " ".join(word for word in words if not key or not word.startswith(f"{key}=")), values
