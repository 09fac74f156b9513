"""WN18RR's archive: WordNet edges between 40,943 word senses, in 11 relations (Dettmers et al. 2018, arXiv:1707.01476).

```
wn18rr/WN18RR.tar.gz     train.txt  valid.txt  test.txt: source, relation and target, tab between, a line per edge
```
"""

from __future__ import annotations

import tarfile
import zlib
from functools import lru_cache
from pathlib import Path

from memnets.tasks.base import DataError, find_data, verify_checksum
from memnets.tasks.link_files import LinkFiles, read_edges, refuse_repeated

PUBLISHED = "https://github.com/TimDettmers/ConvE (WN18RR.tar.gz)"
SHA256 = "1eb9152f804c140d163462c0d49f65e5a0b30ab5fbb375c5e3353c11a6249060"


@lru_cache(maxsize=4)
def read_wn18rr(root: Path, check_published: bool) -> LinkFiles:
    """Return the three files of the archive, names in the order of their first edge; read once per process.

    Raises:
        DataError: the archive is missing, damaged or not the published one, a line is malformed or an edge told twice.
    """
    path = find_data(root, ("wn18rr/WN18RR.tar.gz", "WN18RR.tar.gz"), PUBLISHED)
    verify_checksum(path, SHA256 if check_published else None)
    texts = _texts(path)
    train, valid, test = (tuple(read_edges(texts[name], f"{path}: {name}")) for name in texts)
    refuse_repeated(str(path), train, valid, test)
    edges = (*train, *valid, *test)
    entities = dict.fromkeys(name for source, _, target in edges for name in (source, target))
    relations = dict.fromkeys(edge.relation for edge in edges)
    return LinkFiles(tuple(entities), tuple(relations), (), train, valid, test)


def _texts(path: Path) -> dict[str, str]:
    """What each of the three files holds, by name; nothing is unpacked to disk."""
    texts = {}
    try:
        with tarfile.open(path) as archive:
            for name in ("train.txt", "valid.txt", "test.txt"):
                file = archive.extractfile(name)
                texts[name] = file.read().decode() if file else ""
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no archive of train.txt, valid.txt and test.txt: {error}. Fetch it again.") from None
    return texts
