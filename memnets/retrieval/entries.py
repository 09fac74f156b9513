"""What external memories hold, and what is wrong with entries that they refuse."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Named(Protocol):
    """What an entry of any memory has: a name of its own, and words that it can be found by."""

    @property
    def id(self) -> str:
        """No two entries of a memory share one."""
        ...

    @property
    def text(self) -> str:
        """What it says."""
        ...


AnEntry = TypeVar("AnEntry", bound=Named)
"""The kind of entry that a memory takes."""


class Entry(NamedTuple):
    """A text that can be written, replaced, erased and read.

    Attributes:
        id: its name: no two entries of a memory share one.
        text: what it says.
        value: what it says as a class of the task, or -1 (see `Block.values`).
    """

    id: str
    text: str
    value: int = -1


class Triple(NamedTuple):
    """A fact that can be written, replaced, erased and read: `relation` leads from `source` to `target`.

    Attributes:
        id: its name: no two entries of a memory share one.
        source: an entity.
        relation: a kind of edge.
        target: an entity.
    """

    id: str
    source: str
    relation: str
    target: str

    @property
    def text(self) -> str:
        """Its three names, apart by blanks."""
        return " ".join(self[1:])


class EntryError(ValueError):
    """Entries or ids that a memory can't take. Nothing of the call was done."""
