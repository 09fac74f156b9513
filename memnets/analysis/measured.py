"""Tables of what was measured on one machine: a dataclass per line, its fields the columns, its `key` held once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from memnets.analysis.rows import RecordError, read_rows, write_rows


@dataclass(frozen=True)
class Measured(ABC):
    """A line: words and numbers; a number may be None."""

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""


M = TypeVar("M", bound=Measured)


def read_measured(path: Path, kind: type[M]) -> list[M]:
    """Return the records of a table; none if there is no such file.

    Raises:
        RecordError: other columns than the fields, or an entry that is no number where one belongs.
    """
    rows = read_rows(path, _columns(kind))
    return [_record(path, line, kind, row) for line, row in enumerate(rows, start=2)]


def add_measured(path: Path, kind: type[M], new: Sequence[M]) -> None:
    """Merge records into a table: a new one takes the place of the old one of its key.

    Raises:
        RecordError: the table can't be read.
    """
    merged = {record.key: record for record in [*read_measured(path, kind), *new]}
    write_rows(path, _columns(kind), merged.values())


def _columns(kind: type[M]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


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
