"""Which entry is in which row, and a journal of changed rows that indexes follow."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Generic

from memnets.retrieval.base import Change
from memnets.retrieval.entries import AnEntry, EntryError

REMEMBERED = 1024


class Rows(Generic[AnEntry]):
    """Entries by row and rows by id. Rows of erased entries are used again, the lowest first.

    `version` counts changed rows. The journal forgets what is older than it would take to read all rows anew.
    """

    def __init__(self, entries: Sequence[AnEntry | None] = (), version: int = 0) -> None:
        self.entries = list(entries)
        self._row_of = {entry.id: row for row, entry in enumerate(self.entries) if entry is not None}
        self._vacant = [row for row, entry in enumerate(self.entries) if entry is None]
        self._forgotten = version
        self._changed: list[int] = []

    @property
    def version(self) -> int:
        """Grows by one with every row that changes."""
        return self._forgotten + len(self._changed)

    def __len__(self) -> int:
        return len(self._row_of)

    def row(self, id: str) -> int | None:
        """Where an entry is; None where it isn't."""
        return self._row_of.get(id)

    def refuse_known(self, entries: Sequence[AnEntry]) -> None:
        """Raise unless all entries are new.

        Raises:
            EntryError: an id is there already, twice among them, or empty.
        """
        if any(not entry.id.strip() for entry in entries):
            raise EntryError("an id is empty: give every entry a name of its own")
        _refuse_repeated([entry.id for entry in entries])
        known = [entry.id for entry in entries if entry.id in self._row_of]
        if known:
            raise EntryError(f"the memory holds {listed(known)} already: use `replace` to change entries")

    def refuse_unknown(self, ids: Sequence[str]) -> None:
        """Raise unless all ids are there.

        Raises:
            EntryError: an id isn't, or is given twice.
        """
        _refuse_repeated(ids)
        unknown = [id for id in ids if id not in self._row_of]
        if unknown:
            raise EntryError(f"the memory doesn't hold {listed(unknown)}: use `write` to add entries")

    def write(self, entries: Sequence[AnEntry]) -> list[int]:
        """Take rows for new entries; return them."""
        rows = []
        for entry in entries:
            row = heapq.heappop(self._vacant) if self._vacant else len(self.entries)
            if row == len(self.entries):
                self.entries.append(None)
            self._row_of[entry.id] = row
            rows.append(row)
        self._change(rows, entries)
        return rows

    def replace(self, entries: Sequence[AnEntry]) -> list[int]:
        """Put entries where those of the same ids are; return their rows."""
        rows = [self._row_of[entry.id] for entry in entries]
        self._change(rows, entries)
        return rows

    def erase(self, ids: Sequence[str]) -> list[int]:
        """Vacate rows; return them."""
        rows = [self._row_of.pop(id) for id in ids]
        for row in rows:
            heapq.heappush(self._vacant, row)
        self._change(rows, [None] * len(rows))
        return rows

    def changes_since(self, version: int) -> list[Change] | None:
        """(row, its text now; None where vacant) of each row changed since; None where that is no longer known."""
        if not self._forgotten <= version <= self.version:
            return None
        rows = dict.fromkeys(self._changed[version - self._forgotten :])
        held = [(row, self.entries[row]) for row in rows]
        return [(row, None if entry is None else entry.text) for row, entry in held]

    def _change(self, rows: Sequence[int], entries: Sequence[AnEntry | None]) -> None:
        for row, entry in zip(rows, entries, strict=True):
            self.entries[row] = entry
            self._changed.append(row)
        kept = max(REMEMBERED, len(self.entries))
        if len(self._changed) > 2 * kept:
            self._forgotten += len(self._changed) - kept
            del self._changed[:-kept]


def _refuse_repeated(ids: Sequence[str]) -> None:
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise EntryError(f"{listed(repeated)} given more than once: ids name one entry each")


def listed(ids: Sequence[str]) -> str:
    """A few ids, and how many more."""
    return ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
