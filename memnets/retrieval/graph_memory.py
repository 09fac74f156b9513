"""A memory of facts: typed edges between named entities, which are followed, or found and read like texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.contracts import Edges
from memnets.memory.block import Block
from memnets.retrieval.encoder import NO_ENCODER, Encoder
from memnets.retrieval.entries import EntryError, Triple
from memnets.retrieval.neighbourhood import Neighbourhood, around
from memnets.retrieval.row_memory import RowMemory


class Edge(NamedTuple):
    """A fact without an id: `relation` leads from `source` to `target`."""

    source: str
    relation: str
    target: str


class GraphMemory(RowMemory[Triple]):
    """Triples as edges. Entities and relations are numbered as they come, and keep their numbers: also without an edge.

    Of what is read, a Block has one item per selected triple: the vector of its three names, and as its value the
    number of its target. `edges` and `neighbourhood` are for those who follow edges, whatever their ids.

    Args:
        encoder: what triples are encoded with; without one they are found by words, by their ids or by their edges.
        entities: names to number first, in this order.
        relations: names to number first, in this order.

    Raises:
        ValueError: a name is given twice.
    """

    entry_kind = Triple

    def __init__(
        self, encoder: Encoder = NO_ENCODER, entities: Sequence[str] = (), relations: Sequence[str] = ()
    ) -> None:
        none = torch.empty(0).long()
        super().__init__(encoder, {"source": none, "relation": none})
        self._entities, self._relations = _numbered(entities), _numbered(relations)
        self._ids: dict[tuple[str, str], dict[str, str]] = {}  # of each edge, by source and relation, then by target
        self._given: tuple[int, Edges] | None = None

    def __contains__(self, edge: Edge) -> bool:
        return self.id(edge) is not None

    @property
    def entities(self) -> tuple[str, ...]:
        """Names by number."""
        return tuple(self._entities)

    @property
    def relations(self) -> tuple[str, ...]:
        """Names by number."""
        return tuple(self._relations)

    def entity(self, name: str) -> int:
        """Return an entity's number.

        Raises:
            EntryError: no triple ever named it.
        """
        if name not in self._entities:
            raise EntryError(f"the graph knows no entity {name!r}: write a triple that names it first")
        return self._entities[name]

    def id(self, edge: Edge) -> str | None:
        """Under which id an edge is there; None where it isn't."""
        return self._ids.get(edge[:2], {}).get(edge.target)

    def targets(self, source: str, relation: str) -> tuple[str, ...]:
        """Where a relation leads from an entity; () if nowhere."""
        return tuple(self._ids.get((source, relation), ()))

    def write(self, entries: Sequence[Triple]) -> None:
        """Add triples.

        Raises:
            EntryError: an id or an edge is there already or twice among the new ones, or a name or an id is empty.
            ValueError: a triple can't be encoded.
        """
        super().write(entries)
        self._link(entries)

    def replace(self, entries: Sequence[Triple]) -> None:
        """Put triples where those of the same ids are.

        Raises:
            EntryError: an id is not there, or twice among the new ones, an edge is there under another id, or a name is
                empty.
            ValueError: a triple can't be encoded.
        """
        before = self._known(entry.id for entry in entries if isinstance(entry, Triple))
        super().replace(entries)
        self._unlink(before)
        self._link(entries)

    def erase(self, ids: Sequence[str]) -> None:
        """Remove triples; nothing of them is kept but their entities' and relations' names, which keep their numbers.

        Raises:
            EntryError: an id is not there, or given twice.
        """
        before = self._known(ids)
        super().erase(ids)
        self._unlink(before)

    def edges(self) -> Edges:
        """Return all edges, as one row `[1 edges]` in the order of rows; they stay as they are when memory changes."""
        if self._given is None or self._given[0] != self.version:
            rows = self.occupied.nonzero()[:, 0]
            source, relation, target = (self._columns[name][rows][None] for name in ("source", "relation", "values"))
            self._given = self.version, Edges(source, relation, target, torch.ones_like(source, dtype=torch.bool))
        return self._given[1]

    def neighbourhood(self, starts: Sequence[str], num_hops: int) -> Neighbourhood:
        """Return what edges reach from each start in `num_hops` steps at most, and all edges between.

        Raises:
            EntryError: a start is not known.
            ValueError: no start, or less than 0 hops.
        """
        return around(self.edges(), len(self._entities), [self.entity(name) for name in starts], num_hops)

    def read_nodes(self, starts: Sequence[str], num_hops: int, vectors: Float[Tensor, "entities word"]) -> Block:
        """Return the nodes of each start's neighbourhood: their vectors, and -distance as score.

        `rows` and `values` are numbers of entities: a node is no entry, and has no row.

        Raises:
            EntryError: a start is not known.
            ValueError: there are more or fewer vectors than entities, no start, or less than 0 hops.
        """
        if len(vectors) != len(self._entities):
            raise ValueError(f"the graph has {len(self._entities)} entities, but {len(vectors)} vectors were given")
        found = self.neighbourhood(starts, num_hops)
        return Block(vectors[found.nodes], found.mask, -found.distances.float(), found.nodes, values=found.nodes)

    @classmethod
    def load(cls, folder: Path, encoder: Encoder = NO_ENCODER) -> GraphMemory:
        """Return the memory that was saved: the same triples in the same rows, at the same version.

        Raises:
            MemoryFolderError: it is damaged, of another kind, or was made with another encoder.
        """
        memory = super().load(folder, encoder)
        memory._link([entry for entry in memory._rows.entries if entry is not None])
        return memory

    def _settings(self) -> dict[str, Any]:
        return {"entities": self.entities, "relations": self.relations}

    def _refuse(self, entries: Sequence[Triple]) -> None:
        for entry in entries:
            if not isinstance(entry, Triple) or not all(isinstance(name, str) and name for name in entry[1:]):
                raise EntryError(
                    f"GraphMemory holds Triple(id, source, relation, target), none of the names empty; not {entry!r}"
                )
        edges = [_edge(entry) for entry in entries]
        twice = [edge for edge, count in Counter(edges).items() if count > 1]
        if twice:
            raise EntryError(f"the edge {' '.join(twice[0])!r} is given under more than one id: write it once")
        given = {entry.id for entry in entries}
        for edge in edges:
            other = self.id(edge)
            if other is not None and other not in given:
                raise EntryError(f"the edge {' '.join(edge)!r} is there already as {other!r}: replace or erase that")

    def _told(self, entries: Sequence[Triple]) -> dict[str, Tensor]:
        """Numbers of the names; new names get theirs."""
        kinds = {"source": self._entities, "relation": self._relations, "target": self._entities}
        numbers = [
            [known.setdefault(getattr(entry, name), len(known)) for name, known in kinds.items()] for entry in entries
        ]
        source, relation, target = torch.tensor(numbers).unbind(1)
        return {"source": source, "relation": relation, "values": target}

    def _known(self, ids: Iterable[str]) -> list[Triple]:
        """The triples of those ids that are there."""
        held = (self.entry(row) for row in map(self.row, ids) if row is not None)
        return [entry for entry in held if entry is not None]

    def _link(self, triples: Iterable[Triple]) -> None:
        for id, source, relation, target in triples:
            self._ids.setdefault((source, relation), {})[target] = id

    def _unlink(self, triples: Iterable[Triple]) -> None:
        for _, source, relation, target in triples:
            targets = self._ids[source, relation]
            del targets[target]
            if not targets:
                del self._ids[source, relation]


def named(edges: Iterable[Edge]) -> list[Triple]:
    """Return edges as entries whose ids are their three names, apart by blanks."""
    return [Triple(" ".join(edge), *edge) for edge in edges]


def _edge(entry: Triple) -> Edge:
    return Edge(*entry[1:])


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """Number of each name.

    Raises:
        ValueError: one is given twice.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"names to number must differ: {twice!r} is given twice")
    return numbers
