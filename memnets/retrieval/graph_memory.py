"""A memory of typed edges between named entities, to be written, changed and erased at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memnets.contracts import Edges, map_tensors
from memnets.memory.block import Block
from memnets.retrieval.graph_folder import read_folder, write_folder


class Edge(NamedTuple):
    """A fact: `relation` leads from `source` to `target`."""

    source: str
    relation: str
    target: str


class EdgeError(ValueError):
    """Edges or names that a graph memory can't take. Nothing of the call was done."""


class Neighbourhood(NamedTuple):
    """What lies within some steps of a start, for each of a batch of starts: the start is node 0.

    Attributes:
        rows: the memory's ids of the nodes, nearest first.
        mask: which nodes there are; the others are padding.
        distances: fewest steps from the start.
        edges: between these nodes, which they number from 0.
    """

    rows: Int[Tensor, "batch nodes"]
    mask: Bool[Tensor, "batch nodes"]
    distances: Int[Tensor, "batch nodes"]
    edges: Edges


class GraphMemory:
    """Edges by name. Entities and relations are numbered as they come, and keep their numbers: also without any edge.

    A call that raises has changed nothing. A write costs what is written, not what is there.

    Args:
        entities: names to number first, in this order.
        relations: names to number first, in this order.

    Raises:
        ValueError: a name is given twice.
    """

    def __init__(self, entities: Sequence[str] = (), relations: Sequence[str] = ()) -> None:
        self.version = 0
        """Grows by every change."""
        self._entities, self._relations = _numbered(entities), _numbered(relations)
        self._edges = np.empty((16, 3), dtype=np.int64)  # source, relation, target; rows from len(self) on are free
        self._named: list[Edge] = []  # the same by name
        self._rows: dict[Edge, int] = {}
        self._targets: dict[tuple[str, str], dict[str, None]] = {}
        self._told: tuple[int, Edges] | None = None

    def __len__(self) -> int:
        """Edges there are."""
        return len(self._rows)

    def __contains__(self, edge: Edge) -> bool:
        return edge in self._rows

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
            EdgeError: no edge ever named it.
        """
        if name not in self._entities:
            raise EdgeError(f"the graph knows no entity {name!r}: write an edge that names it first")
        return self._entities[name]

    def targets(self, source: str, relation: str) -> tuple[str, ...]:
        """Where a relation leads from an entity; () if nowhere."""
        return tuple(self._targets.get((source, relation), ()))

    def write(self, edges: Sequence[Sequence[str]]) -> None:
        """Add edges.

        Raises:
            EdgeError: an edge is there already, twice among the new ones, or not three names.
        """
        edges = _checked(edges)
        _refuse((edge for edge in edges if edge in self._rows), "there already: replace() or erase() it")
        self._change([], edges)

    def replace(self, edges: Sequence[Sequence[str]]) -> None:
        """Let relations lead elsewhere: the targets of each (source, relation) named are then those given, no others.

        Raises:
            EdgeError: a source does not have the relation, or an edge is given twice or is not three names.
        """
        edges = _checked(edges)
        changed = dict.fromkeys((edge.source, edge.relation) for edge in edges)
        _refuse((edge for edge in edges if edge[:2] not in self._targets), "no relation of its source: write() it")
        self._change([Edge(*pair, target) for pair in changed for target in self._targets[pair]], edges)

    def erase(self, edges: Sequence[Sequence[str]]) -> None:
        """Remove edges.

        Raises:
            EdgeError: an edge is not there, given twice, or is not three names.
        """
        edges = _checked(edges)
        _refuse((edge for edge in edges if edge not in self._rows), "not there")
        self._change(edges, [])

    def edges(self) -> Edges:
        """Return all edges, as one row `[1 edges]`; they stay as they are when the memory changes."""
        if self._told is None or self._told[0] != self.version:
            columns = torch.from_numpy(self._edges[: len(self)].T.copy())[:, None]
            source, relation, target = columns
            self._told = self.version, Edges(source, relation, target, torch.ones_like(source, dtype=torch.bool))
        return self._told[1]

    def neighbourhood(self, starts: Sequence[str], num_hops: int) -> Neighbourhood:
        """Return what edges reach from each start in `num_hops` steps at most, and all edges between.

        Raises:
            EdgeError: a start is not known.
            ValueError: no start, or less than 0 hops.
        """
        if not starts or num_hops < 0:
            raise ValueError(f"a neighbourhood needs a start and 0 hops at least, not {len(starts)} and {num_hops}")
        ids = [self.entity(name) for name in starts]
        return _side_by_side([self._around(start, num_hops) for start in ids])

    def read(self, starts: Sequence[str], num_hops: int, vectors: Float[Tensor, "entities word"]) -> Block:
        """Return the nodes of each start's neighbourhood: their vectors, and -distance as score; rows are entities.

        Raises:
            EdgeError: a start is not known.
            ValueError: there are more or fewer vectors than entities, no start, or less than 0 hops.
        """
        if len(vectors) != len(self._entities):
            raise ValueError(f"the graph has {len(self._entities)} entities, but {len(vectors)} vectors were given")
        found = self.neighbourhood(starts, num_hops)
        return Block(vectors[found.rows], found.mask, -found.distances.float(), found.rows, values=found.rows)

    def save(self, folder: Path) -> None:
        """Write all of it to a folder, which holds the old memory until the new one is whole."""
        edges = torch.from_numpy(self._edges[: len(self)].copy())
        write_folder(folder, {"version": self.version, "entities": self.entities, "relations": self.relations}, edges)

    @staticmethod
    def load(folder: Path) -> GraphMemory:
        """Return the memory that was saved.

        Raises:
            GraphFolderError: there is none, or it is damaged.
        """
        facts, triples = read_folder(folder)
        entities, relations = facts["entities"], facts["relations"]
        memory = GraphMemory(entities, relations)
        memory._change([], [Edge(entities[i], relations[r], entities[j]) for i, r, j in triples.tolist()])
        memory.version = facts["version"]
        return memory

    def _change(self, erased: Sequence[Edge], written: Sequence[Edge]) -> None:
        """Do what was checked before."""
        for edge in erased:
            self._erase(edge)
        while len(self._edges) < len(self) + len(written):
            self._edges = np.concatenate([self._edges, np.empty_like(self._edges)])
        for edge in written:
            numbers = [
                known.setdefault(name, len(known))
                for known, name in zip((self._entities, self._relations, self._entities), edge, strict=True)
            ]
            self._edges[len(self)] = numbers
            self._rows[edge] = len(self)
            self._named.append(edge)
            self._targets.setdefault(edge[:2], {})[edge.target] = None
        self.version += bool(erased or written)

    def _erase(self, edge: Edge) -> None:
        """The last row moves to where the edge was."""
        row, moved = self._rows.pop(edge), self._named.pop()
        if moved != edge:
            self._edges[row], self._named[row], self._rows[moved] = self._edges[len(self)], moved, row
        targets = self._targets[edge[:2]]
        del targets[edge.target]
        if not targets:
            del self._targets[edge[:2]]

    def _around(self, start: int, num_hops: int) -> Neighbourhood:
        """The neighbourhood of one start, as a batch of one."""
        source, relation, target = (part[0] for part in self.edges()[:3])
        distances = torch.full((len(self._entities),), -1)
        distances[start] = 0
        for hop in range(num_hops):
            reached = target[distances[source] == hop]
            distances[reached[distances[reached] < 0]] = hop + 1
        rows = torch.argsort(torch.where(distances < 0, num_hops + 1, distances), stable=True)
        rows = rows[: int((distances >= 0).sum())]
        places = torch.full_like(distances, -1)
        places[rows] = torch.arange(len(rows))
        kept = (distances[source] >= 0) & (distances[target] >= 0)
        edges = Edges(places[source[kept]], relation[kept], places[target[kept]], torch.ones_like(source[kept]).bool())
        found = Neighbourhood(rows, torch.ones_like(rows, dtype=torch.bool), distances[rows], edges)
        return map_tensors(lambda part: part[None], found)


def _side_by_side(found: list[Neighbourhood]) -> Neighbourhood:
    """Batches of one as one batch, padded with 0 and False."""

    def pad(*parts: Tensor) -> Tensor:
        return pad_sequence([part[0] for part in parts], batch_first=True)

    return map_tensors(pad, *found)


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


def _checked(edges: Iterable[Sequence[str]]) -> list[Edge]:
    """Edges that are three names each, and different.

    Raises:
        EdgeError: some are not.
    """
    edges = list(edges)
    for edge in edges:
        if isinstance(edge, str) or len(edge) != 3 or not all(isinstance(name, str) and name for name in edge):
            raise EdgeError(f"an edge is three names (source, relation, target), none of them empty; not {edge!r}")
    named = [Edge(*edge) for edge in edges]
    _refuse((edge for edge, count in Counter(named).items() if count > 1), "given twice")
    return named


def _refuse(edges: Iterable[Edge], reason: str) -> None:
    """Raise where there is any, and name the first few.

    Raises:
        EdgeError: always, unless there are none.
    """
    refused = [" ".join(edge) for edge in edges]
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise EdgeError(f"{reason}: {', '.join(refused[:3])}{more}. Nothing was changed.")
