"""The family graph's files: kinship of 3,007 people in 12 relations, as split by Yang, Yang & Cohen (2017).

```
family/facts.txt  train.txt  valid.txt  test.txt     source, relation and target, tab between, a line per edge
family/entities.txt  relations.txt                   a name per line
```
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from memnets.tasks.base import find_data, verify_checksum
from memnets.tasks.link_files import LinkFiles, read_edges, refuse_repeated

PUBLISHED = "https://github.com/fanyangxyz/Neural-LP (datasets/family)"


@lru_cache(maxsize=4)
def read_family(root: Path, check_published: bool) -> LinkFiles:
    """Return all six files; read once per process.

    Raises:
        DataError: a file is missing, malformed or not the published one, or an edge is told twice.
    """
    folder = find_data(root, ("family",), PUBLISHED)
    lines = Path(__file__).with_name("family.sha256").read_text(encoding="ascii").splitlines()
    known = {name: checksum for checksum, name in (line.split() for line in lines)}
    paths = {name: find_data(folder, (f"{name}.txt",), PUBLISHED) for name in LinkFiles._fields}
    for path in paths.values():
        verify_checksum(path, known[path.name] if check_published else None)
    entities, relations = (tuple(paths[name].read_text("utf-8").split()) for name in ("entities", "relations"))
    facts, train, valid, test = (
        tuple(read_edges(paths[name].read_text("utf-8"), str(paths[name]), set(entities), set(relations)))
        for name in ("facts", "train", "valid", "test")
    )
    refuse_repeated(str(folder), facts, train, valid, test)
    return LinkFiles(entities, relations, facts, train, valid, test)
