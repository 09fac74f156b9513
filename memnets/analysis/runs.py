"""Run folders as they lie on disk: found and read, whatever state they are in."""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Row = dict[str, Any]
REFERENCES = "references.json"
FILES = ("config.yaml", "status.json", "environment.json")
NOT_METRICS = ("step", "sequences", "split")
APART = ("seed", "logger", "runtime")
"""Nodes in which runs of one group may differ."""


class RunError(Exception):
    """A folder that holds no readable run. Its message says which file, what is wrong, and what to do."""


class Problem(NamedTuple):
    """A path that was left out, and why."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: the folder.
        name: the experiment's name: the folder's without its hash.
        config: the resolved configuration.
        status: how far it came, and how it ended.
        environment: command, commit, versions, machine.
        metrics: rows in the order they were written.
        references: what its metrics are compared with: `{"chance": {"test/accuracy": 0.03}}`; {} if it tells none.
        cut_lines: rows at the end that a kill cut short and that were left out (0 or 1).
    """

    path: Path
    name: str
    config: Row
    status: Row
    environment: Row
    metrics: tuple[Row, ...]
    references: Row = field(default_factory=dict)
    cut_lines: int = 0

    @property
    def seed(self) -> int:
        """The seed that, beside the configuration, made this run."""
        return int(self.config.get("seed") or 0)

    @property
    def shared(self) -> Row:
        """The configuration without what runs of one group may differ in."""
        return {key: value for key, value in self.config.items() if key not in APART}

    def settings(self, over: Sequence[str] = ()) -> Row:
        """Return what is shared, flat, `{"trainer.batch_size": 16}`, but for the settings in `over`."""
        return {key: value for key, value in flatten(self.shared).items() if key not in over}

    def key(self, over: Sequence[str] = ()) -> str:
        """Return what is equal for runs of one group, which may differ in the settings in `over`."""
        return json.dumps([self.name, self.settings(over)], sort_keys=True, default=str)

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return self.status.get("status") == "done"

    def rows(self, split: str) -> list[Row]:
        """Rows of one split."""
        return [row for row in self.metrics if row["split"] == split]


def read_run(path: Path) -> Run:
    """Return the run in a folder, finished or not.

    Raises:
        RunError: the folder is none of a run, or a file of it is missing, unreadable or corrupt.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(
            "no such folder" if not path.exists() else "not a folder: give the folder that holds config.yaml"
        )
    if not any((path / name).exists() for name in FILES):
        raise RunError(f"not a run folder: it holds none of {', '.join(FILES)}")
    config, status, environment = (_read_mapping(path / name) for name in FILES)
    metrics, cut_lines = _read_rows(path / "metrics.jsonl")
    references = _read_mapping(path / REFERENCES) if (path / REFERENCES).exists() else {}
    return Run(path, _name(path, config), config, status, environment, tuple(metrics), references, cut_lines)


def find_runs(patterns: Iterable[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Return the runs in the given folders, and what was left out and why.

    A pattern is a run folder, a folder of run folders, or a glob of either. Of several runs with one configuration and
    seed the one that ended last counts.
    """
    runs, problems = [], []
    for path in dict.fromkeys(folder for pattern in patterns for folder in _expand(str(pattern))):
        try:
            runs.append(read_run(path))
        except RunError as error:
            problems.append(Problem(path, str(error)))
    kept, superseded = _newest(runs)
    return kept, problems + superseded


def final(run: Run) -> dict[str, float]:
    """Return the last value of each metric on each split but the training one: `{"test/bit_errors": 0.0}`."""
    last = {row["split"]: row for row in run.metrics if row["split"] != "train"}
    return {
        f"{split}/{key}": number(value)
        for split, row in last.items()
        for key, value in row.items()
        if is_metric(key, value)
    }


def choice(run: Run) -> float:
    """Return that of which the least chooses among restarts; NaN if the run tells nothing of the kind.

    It is the loss in the last row of training; where early stopping watched a validation metric, the best of this. Of
    equal ones the first run counts.
    """
    stopping = (run.config.get("trainer") or {}).get("early_stopping")
    if not stopping:
        rows = run.rows("train")
        return number(rows[-1].get("loss")) if rows else math.nan
    sign = -1.0 if stopping.get("mode") == "max" else 1.0
    values = (sign * number(row.get(stopping.get("metric", "loss"))) for row in run.rows("validation"))
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def is_metric(key: str, value: Any) -> bool:
    """Whether an entry of a row is a measurement; None is one that was not a number."""
    return key not in NOT_METRICS and not isinstance(value, bool) and isinstance(value, int | float | None)


def number(value: int | float | None) -> float:
    """Return the number a row holds; rows write NaN as null."""
    return math.nan if value is None else float(value)


def flatten(tree: Row, prefix: str = "") -> Row:
    """Return a nested mapping with dotted keys."""
    flat: Row = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return flat


def _expand(pattern: str) -> list[Path]:
    """Return the folders a pattern means; a report's own folder is none."""
    paths = [Path(match) for match in sorted(glob.glob(pattern))] or [Path(pattern)]
    folders = [inner for path in paths for inner in _inside(path)]
    return [path for path in folders if not (path / "report.html").exists() or (path / FILES[0]).exists()]


def _inside(path: Path) -> list[Path]:
    if not path.is_dir() or any((path / name).exists() for name in FILES):
        return [path]
    return sorted(inner for inner in path.iterdir() if (inner / FILES[0]).exists()) or [path]


def _name(path: Path, config: Row) -> str:
    """Return the configured name, or the folder's without hash and without the mark of one that was moved aside."""
    folder = path.resolve().name
    hashed = re.fullmatch(r"(.+)-[0-9a-f]{8,}(\.old-.*)?", folder)
    return str(config.get("name") or (hashed[1] if hashed else folder))


def _read_mapping(path: Path) -> Row:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError:
        raise RunError(f"{path.name} is missing: the run never started, or it was copied in part") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path.name} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path.name} must hold keys and values, not {type(content).__name__}")
    return content


def _read_rows(path: Path) -> tuple[list[Row], int]:
    """Return the rows of a metrics file, and whether its last line was cut short; no file is no rows."""
    if not path.exists():
        return [], 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path.name} can't be read: {error}") from error
    rows: list[Row] = []
    for count, line in enumerate(lines, start=1):
        try:
            rows.append(_row(json.loads(line)))
        except ValueError as error:
            if count == len(lines):
                return rows, 1
            raise RunError(f"{path.name}:{count} is corrupt ({error}); remove the line or run again") from error
    return rows, 0


def _row(content: Any) -> Row:
    if not isinstance(content, dict) or not {"step", "sequences", "split"} <= content.keys():
        raise ValueError(f"expected a row with step, sequences and split, not {str(content)[:40]!r}")
    return content


def _newest(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Return one run per configuration and seed; finished ones before others, later ones before earlier."""
    best: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run.done, str(run.status.get("ended") or ""))):
        best[run.key(), run.seed] = run
    kept = [run for run in runs if best[run.key(), run.seed] is run]
    twins = [(run, best[run.key(), run.seed]) for run in runs if best[run.key(), run.seed] is not run]
    reason = "same configuration and seed as {}, which counts"
    return kept, [Problem(run.path, reason.format(twin.path)) for run, twin in twins]
