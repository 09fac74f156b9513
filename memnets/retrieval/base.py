"""What crosses the room: the contracts of memories and of relevance, and what a query brings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from memnets.memory.block import Block
from memnets.retrieval.encoder import Encoder
from memnets.retrieval.entries import AnEntry
from memnets.retrieval.selection import Selected

Change = tuple[int, str | None]


class EmptyMemoryError(ValueError):
    """Something was asked of a memory that holds nothing."""


class MemoryFolderError(Exception):
    """A saved memory that can't be used. The message says which, why, and what to do."""


@runtime_checkable
class ExternalMemory(Protocol[AnEntry]):
    """Entries in numbered rows, to be written, replaced and erased at any time; a change is seen by the next read.

    All are of the kind that the memory takes: `Entry` for texts, `Triple` for facts (`memnets.retrieval.entries`).
    Rows of erased entries are vacant until they are used again: a row means the same only within one `version`.
    A call that raises has changed nothing. `load(folder, encoder)`, a static method, returns what `save` wrote.
    """

    @property
    def encoder(self) -> Encoder:
        """What texts are encoded with."""
        ...

    @property
    def version(self) -> int:
        """Grows by every change."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows there are, vacant ones among them."""
        ...

    @property
    def occupied(self) -> Bool[Tensor, " rows"]:
        """Which rows hold an entry."""
        ...

    @property
    def vectors(self) -> Float[Tensor, "rows word"]:
        """Each row's vector, of length 1; zeros where vacant."""
        ...

    def __len__(self) -> int:
        """Entries there are."""
        ...

    def entry(self, row: int) -> AnEntry | None:
        """What a row holds; None where vacant."""
        ...

    def row(self, id: str) -> int | None:
        """Where an entry is; None where it isn't."""
        ...

    def write(self, entries: Sequence[AnEntry]) -> None:
        """Add entries.

        Raises:
            EntryError: an id is there already, twice among the new ones or empty, or the memory can't hold an entry.
            ValueError: a text can't be encoded.
        """
        ...

    def replace(self, entries: Sequence[AnEntry]) -> None:
        """Put entries where those of the same ids are.

        Raises:
            EntryError: an id is not there, or twice among the new ones, or the memory can't hold an entry.
            ValueError: a text can't be encoded.
        """
        ...

    def erase(self, ids: Sequence[str]) -> None:
        """Remove entries; nothing of them is kept, but that names which a graph numbered keep their numbers.

        Raises:
            EntryError: an id is not there, or given twice.
        """
        ...

    def read(self, selected: Selected) -> Block:
        """Return what the selected rows hold.

        Raises:
            EntryError: a selected row is vacant or beyond the memory: it was selected before a change.
        """
        ...

    def changes_since(self, version: int) -> list[Change] | None:
        """(row, its text now; None where vacant) of each row changed since; None where that is no longer known."""
        ...

    def save(self, folder: Path) -> None:
        """Write all of it to a folder, which holds the old memory until the new one is whole."""
        ...


class Queries(NamedTuple):
    """What is looked for.

    Attributes:
        texts: the queries' words.
        vectors: their encodings, of the memory's encoder, in any precision; None where only words count.
        gold: per query, ids of the entries that answer it; only `Oracle` looks.
        exclude: per query, ids that it must not read: above all its own training item. Unknown ones don't matter.
    """

    texts: Sequence[str]
    vectors: Float[Tensor, "queries word"] | None = None
    gold: Sequence[Sequence[str]] | None = None
    exclude: Sequence[Sequence[str]] | None = None


@runtime_checkable
class Relevance(Protocol):
    """How much each row has to do with each query."""

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row: higher is more relevant, -inf where vacant or excluded.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries lack what this relevance looks at.
        """
        ...


def refuse_empty(memory: ExternalMemory) -> None:
    """Raise where there is nothing to score.

    Raises:
        EmptyMemoryError: the memory holds nothing.
    """
    if len(memory) == 0:
        raise EmptyMemoryError("the memory is empty: write entries before asking it")


def hide_unreadable(scores: Tensor, memory: ExternalMemory, queries: Queries) -> Tensor:
    """Put -inf, in place, where a row is vacant or excluded from a query.

    Raises:
        ValueError: `exclude` has not one list of ids for each query.
    """
    if len(memory) < memory.num_rows:
        scores.masked_fill_(~memory.occupied, -math.inf)
    if queries.exclude is not None:
        for number, ids in enumerate(ids_per_query(queries.exclude, "exclude", len(queries.texts))):
            rows = [row for row in map(memory.row, ids) if row is not None]
            scores[number, rows] = -math.inf
    return scores


def ids_per_query(ids: Sequence[Sequence[str]], name: str, count: int) -> Sequence[Sequence[str]]:
    """Return the lists of ids once it is clear that there is one for each query.

    Raises:
        ValueError: there are more or fewer, or an id stands where a list of ids should.
    """
    if len(ids) != count:
        raise ValueError(f"Queries.{name} must hold a list of ids for each of {count} queries, not {len(ids)}")
    if any(isinstance(own, str) for own in ids):
        raise ValueError(f"Queries.{name} must hold lists of ids, such as [['a'], ['b', 'c']], not ids")
    return ids
