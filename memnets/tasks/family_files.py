"""The family graph's files: kinship of 3,007 people in 12 relations, as split by Yang, Yang & Cohen (2017).

```
family/facts.txt  train.txt  valid.txt  test.txt     source, relation and target, tab between, a line per edge
family/entities.txt  relations.txt                   a name per line
```
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from memnets.retrieval.graph_memory import Edge
from memnets.tasks.base import DataError, find_data, verify_checksum

PUBLISHED = "https://github.com/fanyangxyz/Neural-LP (datasets/family)"


class FamilyFiles(NamedTuple):
    """Names in the files' order, and the edges of each file; no edge is told twice."""

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    facts: tuple[Edge, ...]
    train: tuple[Edge, ...]
    valid: tuple[Edge, ...]
    test: tuple[Edge, ...]


@lru_cache(maxsize=4)
def read_family(root: Path, check_published: bool) -> FamilyFiles:
    """Return all six files; read once per process.

    Raises:
        DataError: a file is missing, malformed or not the published one, or an edge is told twice.
    """
    folder = find_data(root, ("family",), PUBLISHED)
    lines = Path(__file__).with_name("family.sha256").read_text(encoding="ascii").splitlines()
    known = {name: checksum for checksum, name in (line.split() for line in lines)}
    paths = {name: find_data(folder, (f"{name}.txt",), PUBLISHED) for name in FamilyFiles._fields}
    for path in paths.values():
        verify_checksum(path, known[path.name] if check_published else None)
    entities, relations = (tuple(paths[name].read_text("utf-8").split()) for name in ("entities", "relations"))
    files = {name: _edges(paths[name], set(entities), set(relations)) for name in ("facts", "train", "valid", "test")}
    told = [edge for edges in files.values() for edge in edges]
    if len(set(told)) < len(told):
        raise DataError(f"{folder}: an edge is told twice, so that its question would hold its answer")
    return FamilyFiles(entities, relations, **files)


def _edges(path: Path, entities: set[str], relations: set[str]) -> tuple[Edge, ...]:
    edges = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split()
        if len(words) != 3 or not {words[0], words[2]} <= entities or words[1] not in relations:
            raise DataError(f"{path}:{number}: not a known source, relation and target: {line!r}")
        edges.append(Edge(*words))
    if not edges:
        raise DataError(f"{path}: no edge")
    return tuple(edges)
