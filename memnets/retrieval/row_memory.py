"""What all external memories share: entries in rows, tensors beside them, and a folder on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.memory.block import Block
from memnets.retrieval.base import Change, MemoryFolderError, refuse_empty
from memnets.retrieval.columns import Columns
from memnets.retrieval.encoder import Encoded, Encoder
from memnets.retrieval.entries import AnEntry, EntryError
from memnets.retrieval.folder import read_folder, write_folder
from memnets.retrieval.rows import Rows
from memnets.retrieval.selection import Selected

ENCODED_AT_ONCE = 1024
Kind = TypeVar("Kind", bound="RowMemory")


class RowMemory(ABC, Generic[AnEntry]):
    """An `ExternalMemory` whose kinds say what entries they take, what of them they keep, and what a read of it is.

    Args:
        encoder: what texts are encoded with.
        kept: what is kept of no texts: the dtypes and widths of the kind's own tensors.
    """

    entry_kind: ClassVar[Callable[..., Any]]
    """Makes an entry of what a saved memory tells of it."""

    def __init__(self, encoder: Encoder, kept: Mapping[str, Tensor]) -> None:
        self.encoder = encoder
        self._rows: Rows[AnEntry] = Rows()
        own = {
            "vectors": torch.empty(0, encoder.size),
            "values": torch.empty(0).long(),
            "occupied": torch.empty(0).bool(),
        }
        self._columns = Columns({**own, **kept})

    @property
    def version(self) -> int:
        """Grows by every change."""
        return self._rows.version

    @property
    def num_rows(self) -> int:
        """Rows there are, vacant ones among them."""
        return self._columns.num_rows

    @property
    def occupied(self) -> Bool[Tensor, " rows"]:
        """Which rows hold an entry."""
        return self._columns["occupied"]

    @property
    def vectors(self) -> Float[Tensor, "rows word"]:
        """Each row's vector, of length 1; zeros where vacant."""
        return self._columns["vectors"]

    def __len__(self) -> int:
        """Entries there are."""
        return len(self._rows)

    def entry(self, row: int) -> AnEntry | None:
        """What a row holds; None where vacant."""
        return self._rows.entries[row]

    def row(self, id: str) -> int | None:
        """Where an entry is; None where it isn't."""
        return self._rows.row(id)

    def changes_since(self, version: int) -> list[Change] | None:
        """(row, its text now; None where vacant) of each row changed since; None where that is no longer known."""
        return self._rows.changes_since(version)

    def write(self, entries: Sequence[AnEntry]) -> None:
        """Add entries.

        Raises:
            EntryError: an id is there already, twice among the new ones or empty, or the memory can't hold an entry.
            ValueError: a text can't be encoded.
        """
        self._refuse(entries)
        self._rows.refuse_known(entries)
        if not entries:
            return
        self._columns.reserve(self.num_rows + len(entries))
        values = self._encoded(entries)
        self._columns.put(self._rows.write(entries), values)

    def replace(self, entries: Sequence[AnEntry]) -> None:
        """Put entries where those of the same ids are.

        Raises:
            EntryError: an id is not there, or twice among the new ones, or the memory can't hold an entry.
            ValueError: a text can't be encoded.
        """
        self._refuse(entries)
        self._rows.refuse_unknown([entry.id for entry in entries])
        if not entries:
            return
        values = self._encoded(entries)
        self._columns.put(self._rows.replace(entries), values)

    def erase(self, ids: Sequence[str]) -> None:
        """Remove entries; nothing of them is kept.

        Raises:
            EntryError: an id is not there, or given twice.
        """
        self._rows.refuse_unknown(ids)
        self._columns.clear(self._rows.erase(ids))

    def read(self, selected: Selected) -> Block:
        """Return what the selected rows hold; zeros where none was selected.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            EntryError: a selected row is vacant or beyond the memory: it was selected before a change.
        """
        refuse_empty(self)
        rows = selected.rows.masked_fill(~selected.mask, 0)
        chosen = rows[selected.mask]
        if ((chosen < 0) | (chosen >= self.num_rows)).any() or not self.occupied[chosen].all():
            raise EntryError("a selected row holds no entry: the memory has changed since; score and select again")
        values = self._columns["values"]
        valued = bool(((values >= 0) & self.occupied).any())
        return self._block(
            rows,
            selected.scores.masked_fill(~selected.mask, 0),
            selected.mask,
            values[rows].masked_fill(~selected.mask, -1) if valued else None,
        )

    def save(self, folder: Path) -> None:
        """Write all of it to a folder, which holds the old memory until the new one is whole.

        Raises:
            OSError: the disk is full, or the folder can't be written. What was there before still is.
        """
        facts = {
            "kind": type(self).__name__,
            "encoder": self.encoder.identity,
            "settings": self._settings(),
            "version": self.version,
            "entries": self._rows.entries,
        }
        write_folder(folder, facts, self._columns.all())

    @classmethod
    def load(cls: type[Kind], folder: Path, encoder: Encoder) -> Kind:
        """Return the memory that was saved: the same entries in the same rows, at the same version.

        Raises:
            MemoryFolderError: it is damaged, of another kind, or was made with another encoder.
        """
        facts, tensors = read_folder(folder)
        if facts["kind"] != cls.__name__:
            raise MemoryFolderError(f"{folder} holds a {facts['kind']}, not a {cls.__name__}: load it as what it is")
        if facts["encoder"] != encoder.identity:
            raise MemoryFolderError(
                f"{folder} was made with another encoder ({facts['encoder'][:10]}, not {encoder.identity[:10]}): "
                "load it with that one, or write its texts to a new memory"
            )
        memory = cls(encoder, **facts["settings"])
        entries = [entry and cls.entry_kind(*entry) for entry in facts["entries"]]
        memory._rows, memory._columns = Rows(entries, facts["version"]), Columns(tensors)
        return memory

    def _encoded(self, entries: Sequence[AnEntry]) -> dict[str, Tensor]:
        """Every column's rows for entries; encoded in parts, as the states of a large corpus are many."""
        texts = [entry.text for entry in entries]
        parts = [texts[start : start + ENCODED_AT_ONCE] for start in range(0, len(texts), ENCODED_AT_ONCE)]
        kept = [self._part(part) for part in parts]
        joined = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
        return {**joined, **self._told(entries), "occupied": torch.ones(len(entries), dtype=torch.bool)}

    def _part(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.encoder.encode(texts)
        if encoded.vectors.shape != (len(texts), self.encoder.size) or not encoded.vectors.isfinite().all():
            raise ValueError(f"the encoder must give {len(texts)} finite vectors of width {self.encoder.size}")
        return {"vectors": encoded.vectors, **self._keep(encoded)}

    @abstractmethod
    def _refuse(self, entries: Sequence[AnEntry]) -> None:
        """Raise an EntryError where the kind can't hold an entry."""

    @abstractmethod
    def _told(self, entries: Sequence[AnEntry]) -> dict[str, Tensor]:
        """`values`, and the kind's own tensors for what else entries tell, a row each; they are then sure to be put."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What the constructor takes beside the encoder."""

    def _keep(self, encoded: Encoded) -> dict[str, Tensor]:
        """The kind's own tensors for encoded texts, a row each; none unless it says so."""
        return {}

    def _block(
        self,
        rows: Int[Tensor, "queries k"],
        scores: Float[Tensor, "queries k"],
        mask: Bool[Tensor, "queries k"],
        values: Int[Tensor, "queries k"] | None,
    ) -> Block:
        """What a read of rows is: their vectors, an item each, unless the kind says otherwise.

        Rows that are masked are 0 and must read as zeros.
        """
        vectors = self.vectors[rows].masked_fill(~mask[..., None], 0)
        return Block(vectors, mask, scores, rows, None, values)
