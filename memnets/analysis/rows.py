"""CSV files of results: read strictly, written whole; and how their rows name commit and device."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memnets.files import write_atomic


class RecordError(Exception):
    """A CSV that can't be read as records. Its message names file and line."""


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV; none if there is no such file.

    Raises:
        RecordError: other columns than these, or a row that has more or fewer.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise RecordError(f"{path}:1: expected the columns {','.join(columns)}, not {reader.fieldnames}")
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise RecordError(f"{path}:{line}: expected {len(columns)} columns")
    return rows


def write_rows(path: Path, columns: Sequence[str], records: Iterable[object]) -> None:
    """Replace a CSV, whole, with the named attributes of the records."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_text(getattr(record, column)) for column in columns] for record in records])
    write_atomic(path, buffer.getvalue().encode())


def _text(value: str | int | float | None) -> str:
    """Return a CSV entry; numbers keep six digits, more than any seed deserves."""
    if value is None or isinstance(value, str):
        return value or ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def commit_of(environment: Mapping[str, Any]) -> str:
    """Return the short commit of an `environment.json`: `abc1234`, or `abc1234-dirty`."""
    code = str(environment.get("commit") or "unknown")[:7]
    return f"{code}-dirty" if environment.get("dirty") else code


def device_of(environment: Mapping[str, Any]) -> str:
    """Return its device; of a CPU its name too."""
    name, cpu = str(environment.get("device") or "unknown"), environment.get("cpu")
    return f"{name} ({cpu})" if name == "cpu" and cpu else name
