"""What an external memory holds, and what is wrong with entries that it refuses."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One thing that can be written, replaced, erased and read.

    Attributes:
        id: its name: no two entries of a memory share one.
        text: what it says.
        value: what it says as a class of the task, or -1 (see `Block.values`).
    """

    id: str
    text: str
    value: int = -1


class EntryError(ValueError):
    """Entries or ids that a memory can't take. Nothing of the call was done."""
