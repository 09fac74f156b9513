"""Tables of what was measured on one machine: a dataclass per line, its fields the columns, its `key` held once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from memnets.analysis.rows import RecordError, read_rows, write_rows


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """A line: words and numbers, a number may be None; and, last of its columns, where it comes from.

    Attributes:
        device: `cpu (its name)`, or a GPU's name.
        commit: `abc1234`, or `abc1234-dirty`.
    """

    threads: int
    device: str
    torch: str
    command: str
    commit: str
    date: str

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""


M = TypeVar("M", bound=Measured)


class MeasuredTable(Generic[M]):
    """A CSV that rows are added to as they are measured; none at all without a path.

    Raises:
        RecordError: what is there can't be read as such rows: refused now rather than after minutes.
    """

    def __init__(self, path: str, kind: type[M]) -> None:
        self.path = Path(path) if path else None
        self.kind = kind
        if self.path:
            read_measured(self.path, kind)

    def add(self, rows: Sequence[M]) -> None:
        """Keep rows: each takes the place of the one of its key."""
        if self.path:
            add_measured(self.path, self.kind, rows)


def read_measured(path: Path, kind: type[M]) -> list[M]:
    """Return the records of a table; none if there is no such file.

    Raises:
        RecordError: other columns than the fields, or an entry that is no number where one belongs.
    """
    rows = read_rows(path, columns(kind))
    return [_record(path, line, kind, row) for line, row in enumerate(rows, start=2)]


def add_measured(path: Path, kind: type[M], new: Sequence[M]) -> None:
    """Merge records into a table: a new one takes the place of the old one of its key.

    Raises:
        RecordError: the table can't be read.
    """
    merged = {record.key: record for record in [*read_measured(path, kind), *new]}
    write_rows(path, columns(kind), merged.values())


def columns(kind: type[Measured]) -> tuple[str, ...]:
    """Return the columns of a kind's table: what was measured, then where it comes from."""
    origin = [field.name for field in fields(Measured)]
    return *(field.name for field in fields(kind) if field.name not in origin), *origin


def origins(records: Sequence[Measured]) -> list[str]:
    """Return the commands that made records as lines of Markdown, each once, with where they ran."""
    return list(
        dict.fromkeys(
            f"- `{each.command}` at {each.commit}, {each.date}, {each.device}, {each.threads} thread(s), "
            f"torch {each.torch}"
            for each in records
        )
    )


def _record(path: Path, line: int, kind: type[M], row: dict[str, str]) -> M:
    types = get_type_hints(kind)
    try:
        return kind(**{name: _parsed(types[name], text) for name, text in row.items()})
    except ValueError as error:
        raise RecordError(f"{path}:{line}: {error}; measure it again") from error


def _parsed(kind: Any, text: str) -> Any:
    if kind in (int, float, str):
        return kind(text)
    return float(text) if text else None
