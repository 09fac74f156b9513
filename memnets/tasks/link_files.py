"""What link prediction reads: names in order, and edges as they are told in files, a line each."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from memnets.retrieval.graph_memory import Edge
from memnets.tasks.base import DataError


class LinkFiles(NamedTuple):
    """Names in the files' order, and the edges of each part; no edge is told twice.

    Attributes:
        entities: of all parts.
        relations: of all parts.
        facts: told, never asked; () where the training edges are all there is to read.
        train: asked in training, each without itself; told at all other times.
        valid: asked for validation.
        test: asked for the test.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    facts: tuple[Edge, ...]
    train: tuple[Edge, ...]
    valid: tuple[Edge, ...]
    test: tuple[Edge, ...]


def read_edges(
    text: str, where: str, entities: Set[str] | None = None, relations: Set[str] | None = None
) -> list[Edge]:
    """Return the edges of a file, `source relation target` a line, whose names are all known if sets are given.

    Raises:
        DataError: a line is no edge, or there is none.
    """
    edges = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        known = entities is None or relations is None or (set(words[::2]) <= entities and set(words[1:2]) <= relations)
        if len(words) != 3 or not known:
            raise DataError(f"{where}:{number}: not a known source, relation and target: {line!r}")
        edges.append(Edge(*words))
    if not edges:
        raise DataError(f"{where}: no edge")
    return edges


def refuse_repeated(where: str, *parts: Sequence[Edge]) -> None:
    """Raise where an edge is told twice, in one part or in two.

    Raises:
        DataError: one is.
    """
    told = [edge for edges in parts for edge in edges]
    if len(set(told)) < len(told):
        raise DataError(f"{where}: an edge is told twice, so that its question would hold its answer")
