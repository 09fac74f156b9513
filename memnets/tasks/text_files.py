"""Text files for language models: a folder with three of them, or one that is cut in three.

```
wikitext2/wiki.train.tokens.zip  wiki.valid.tokens.zip  wiki.test.tokens.zip     WikiText-2 (Merity et al. 2016)
anything/train.txt               valid.txt              test.txt
book.txt                                                                         90 %, 5 % and 5 % of it, in order
```

A file may lie in a zip archive of its own. One that is cut is cut at line ends.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from memnets.contracts import Split
from memnets.tasks.base import DataError, find_data, verify_checksum

PUBLISHED = (
    "https://blog.einstein.ai/the-wikitext-long-term-dependency-language-modeling-dataset/ if it is WikiText-2; "
    "for a text of your own, task.path is its file, or a folder with train.txt, valid.txt and test.txt"
)
NAMES: dict[Split, str] = {"train": "train", "validation": "valid", "test": "test"}
LAYOUTS = ("{}.txt", "wiki.{}.tokens", "{}.txt.zip", "wiki.{}.tokens.zip")
"""File names of a split, in the order they are tried."""

TRAIN_SHARE, VALIDATION_SHARE = 0.9, 0.05
"""Shares of a single file; the rest is the test's."""


class Text(NamedTuple):
    """Content of a file, and the path that errors name."""

    path: Path
    content: bytes

    def decode(self) -> str:
        """Return the content as UTF-8.

        Raises:
            DataError: it is not, with the line.
        """
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.path}:{line}: not UTF-8 (byte {self.content[error.start]:#04x}): convert the file, or read it "
                f"as bytes (task=language_modelling_bytes)"
            ) from None


def read_texts(root: Path, path: str, check_published: bool = True) -> dict[Split, Text]:
    """Return the three splits of `path`, which is looked for below `root` and then from the working directory.

    With `check_published`, files of WikiText-2 must equal the published ones.

    Raises:
        DataError: a file is missing, empty, no whole archive, too short to be cut, or not the published one.
    """
    found = find_data(root, (path, str(Path(path).expanduser().absolute())), PUBLISHED)
    if found.is_file():
        return cut(_read(found))
    texts: dict[Split, Text] = {}
    for split, name in NAMES.items():
        file = find_data(found, tuple(layout.format(name) for layout in LAYOUTS), PUBLISHED)
        if check_published:
            verify_checksum(file, known_checksums().get(file.name) if found.name == "wikitext2" else None)
        texts[split] = _read(file)
    return texts


def known_checksums() -> dict[str, str]:
    """Map the name of each published file of WikiText-2, zipped and not, to its sha256."""
    lines = Path(__file__).with_name("wikitext2.sha256").read_text(encoding="ascii").splitlines()
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def cut(text: Text) -> dict[Split, Text]:
    """Cut one text in three, after the lines in which TRAIN_SHARE of its bytes, and VALIDATION_SHARE more, end.

    Raises:
        DataError: a part would be empty.
    """
    path, content = text
    shares = (TRAIN_SHARE, TRAIN_SHARE + VALIDATION_SHARE)
    first, second = (content.find(b"\n", int(len(content) * share)) + 1 for share in shares)
    parts = (content[:first], content[first:second], content[second:])
    if not all(parts):
        raise DataError(
            f"{path}: too few lines to cut {TRAIN_SHARE:.0%}, {VALIDATION_SHARE:.0%} and the rest at line ends: give "
            f"task.path a folder with train.txt, valid.txt and test.txt"
        )
    return {split: Text(path, part) for split, part in zip(NAMES, parts, strict=True)}


def _read(path: Path) -> Text:
    content = _unzipped(path) if path.suffix == ".zip" else path.read_bytes()
    if not content.strip():
        raise DataError(f"{path}: the file is empty: a language model needs text in all three parts. Fetch it again")
    return Text(path, content)


def _unzipped(path: Path) -> bytes:
    """Return the content of the one file in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise DataError(f"{path}: {len(names)} files in the archive: expected one text. Unpack it yourself")
            return archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole zip archive ({error}): truncated? Fetch it again") from None
