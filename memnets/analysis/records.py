"""Results as records: one CSV per table, filled from finished runs and never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from memnets.analysis.costs import COSTS
from memnets.analysis.encoding_speeds import ENCODING_SPEEDS
from memnets.analysis.groups import Group, group_runs
from memnets.analysis.kernels import KERNELS
from memnets.analysis.retrieval_speeds import SPEEDS
from memnets.analysis.retrievals import RETRIEVALS
from memnets.analysis.rows import RecordError, commit_of, device_of, read_rows, write_rows
from memnets.analysis.runs import Problem, Run
from memnets.analysis.searches import SEARCHES
from memnets.analysis.tables import Statistic, measurements, statistics

PUBLISHED = "published.csv"
PUBLISHED_COLUMNS = ("experiment", "metric", "value", "source")

Key = tuple[str, str]


@dataclass(frozen=True)
class Record:
    """One line of a table: the fields are the CSV's columns.

    Attributes:
        published: the figure to compare with, as `published.csv` has it; empty where there is none.
        commit: of the code that ran, ending in `-dirty` if its working tree differed from the commit.
        date: UTC day on which the last of the runs ended.
    """

    experiment: str
    metric: str
    seeds: int
    mean: float
    std: float | None
    median: float
    lower_quartile: float | None
    upper_quartile: float | None
    best: float | None
    selected: float | None
    published: str
    command: str
    commit: str
    date: str
    device: str

    @property
    def key(self) -> Key:
        """What one table holds once."""
        return self.experiment, self.metric

    @property
    def statistic(self) -> Statistic:
        """The numbers alone."""
        return Statistic(**{field.name: getattr(self, field.name) for field in fields(Statistic)})


COLUMNS = tuple(field.name for field in fields(Record))
NUMBERS = ("mean", "std", "median", "lower_quartile", "upper_quartile", "best", "selected")


def record(path: Path, runs: Sequence[Run], patterns: Sequence[str] = (), over: Sequence[str] = ()) -> list[Record]:
    """Merge the finished runs into a table and return what was recorded; without any the table stays as it is.

    Runs that differ in settings named in `over` are restarts of one experiment, as those of several seeds are.

    Raises:
        RecordError: the table or the published figures beside it can't be read, or no run has such a metric or setting.
    """
    if unknown := set(over) - {key for run in runs for key in run.settings()}:
        raise RecordError(f"no run has a setting {', '.join(unknown)}: name a value of config.yaml, as in optim.lr")
    published = read_published(path.with_name(PUBLISHED))
    groups = group_runs([run for run in runs if run.done], over)
    new = [line for group in groups for line in records_of(group, published, patterns)]
    if groups and not new:
        known = dict.fromkeys(name for run in runs for name in measurements(run))
        raise RecordError(f"no run has a metric named {', '.join(patterns)}; they have {', '.join(known)}")
    if new:
        write_records(path, merge(read_records(path), new))
    return new


def records_of(group: Group, published: dict[Key, str], patterns: Sequence[str] = ()) -> list[Record]:
    """Return a record for each metric that `patterns` name, of a group whose runs have all finished."""
    runs = group.runs
    command, day = group.command, max(str(run.status.get("ended") or "")[:10] for run in runs)
    commits, devices = _joined(map(commit, runs)), _joined(map(device, runs))

    def record(result: Statistic) -> Record:
        return Record(
            experiment=group.label,
            **asdict(result),
            published=published.get((group.label, result.metric), ""),
            command=command,
            commit=commits,
            date=day,
            device=devices,
        )

    return [record(result) for result in statistics(group, patterns)]


def refusals(runs: Iterable[Run]) -> list[Problem]:
    """Return the runs that don't count, and why."""
    return [Problem(run.path, f"not recorded: {state(run)}") for run in runs if not run.done]


def state(run: Run) -> str:
    """Return a run's state in words: `failed at step 300 (ValueError: ...)`."""
    status, error = run.status.get("status", "unknown"), run.status.get("error")
    return f"{status} at step {run.status.get('step', 0)}" + (f" ({' '.join(str(error).split())})" if error else "")


def merge(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """Return old and new records; a new one takes the place of the old one of its experiment and metric."""
    return list({record.key: record for record in [*old, *new]}.values())


def read_records(path: Path) -> list[Record]:
    """Return the records of a table; none if there is no such file.

    Raises:
        RecordError: other columns than `COLUMNS`, or an entry that is no number where one belongs.
    """
    return [_record(path, line, row) for line, row in enumerate(read_rows(path, COLUMNS), start=2)]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Replace a table, whole."""
    write_rows(path, COLUMNS, records)


def read_published(path: Path) -> dict[Key, str]:
    """Return the published figures by experiment and metric; none if there is no such file.

    Raises:
        RecordError: other columns than `PUBLISHED_COLUMNS`, a figure without a source, or one given twice.
    """
    figures: dict[Key, str] = {}
    for line, row in enumerate(read_rows(path, PUBLISHED_COLUMNS), start=2):
        key = row["experiment"], row["metric"]
        if key in figures:
            raise RecordError(f"{path}:{line}: {' '.join(key)} is given twice")
        if not row["source"]:
            raise RecordError(f"{path}:{line}: {' '.join(key)} has no source: say where the figure stands")
        figures[key] = row["value"]
    return figures


def tables(results: Path) -> dict[str, Path]:
    """Return a folder's tables of experiments by name."""
    return {
        path.stem: path
        for path in sorted(results.glob("*.csv"))
        if path.name not in (PUBLISHED, KERNELS, COSTS, SEARCHES, RETRIEVALS, SPEEDS, ENCODING_SPEEDS)
    }


def commit(run: Run) -> str:
    """Return the short commit a run was made with: `abc1234`, or `abc1234-dirty`."""
    return commit_of(run.environment)


def device(run: Run) -> str:
    """Return the device a run was made on; of a CPU its name too."""
    return device_of(run.environment)


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _record(path: Path, line: int, row: dict[str, str]) -> Record:
    try:
        numbers: dict[str, Any] = {name: float(row[name]) if row[name] else None for name in NUMBERS}
        if numbers["mean"] is None or numbers["median"] is None:
            raise ValueError("mean and median can't be empty")
        return Record(**{**row, **numbers, "seeds": int(row["seeds"])})
    except ValueError as error:
        raise RecordError(f"{path}:{line}: {error}; record the runs again") from error
