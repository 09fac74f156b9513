"""The files of Omniglot, read and checked: drawings of handwritten characters (Lake et al. 2015).

```
images_background_small1.zip
  images_background_small1/Greek/character03/0396_07.png        alphabet, character, drawing 7 of 20
```

A drawing is 105 x 105, black ink on white. Archives may share alphabets: each character is kept once.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from memnets.tasks.base import DataError, find_data, verify_checksum

PUBLISHED = "https://github.com/brendenlake/omniglot/tree/master/python"
ARCHIVES = ("images_background_small1", "images_background_small2")
"""The two archives of five alphabets each that this project reads; Greek and Latin are in both."""

LAYOUTS = ("omniglot", "omniglot/python", "omniglot-master/python", ".")
"""Folders below the data root in which an archive, or what was unpacked from it, may lie, in the order tried."""

DRAWN_SIZE = 105
IMAGE_SIZE = 20
"""Side of a drawing in the files, and after scaling down as in Santoro et al. 2016, in pixels."""

DRAWING = re.compile(r"(?:.*/)?(?P<alphabet>[^/]+)/(?P<character>character\d+)/\d+_\d+\.png")


class Characters(NamedTuple):
    """Drawings of characters: `images[character, drawing, row, column]` from 0 (paper) to 1 (ink)."""

    alphabets: tuple[str, ...]
    images: np.ndarray


@lru_cache(maxsize=2)
def read_characters(root: Path, check_published: bool = True) -> Characters:
    """Return every character of the two archives once, in the order of their names; read once per process.

    Raises:
        DataError: an archive is missing, malformed or not the published one, or drawings are missing.
    """
    drawings: dict[tuple[str, str], list[np.ndarray]] = {}
    for archive in ARCHIVES:
        path = find_archive(root, archive)
        if check_published and path.is_file():
            verify_checksum(path, known_checksums().get(path.name))
        for character, images in read_archive(path).items():
            drawings.setdefault(character, images)
    _check_numbers(root, drawings)
    names = sorted(drawings)
    every = np.array([drawings[name] for name in names], np.float32)
    return Characters(tuple(alphabet for alphabet, _ in names), every)


def find_archive(root: Path, archive: str) -> Path:
    """Return the archive, or the folder that was unpacked from it.

    Raises:
        DataError: it lies in none of the known layouts below `root`.
    """
    places = tuple(str(Path(layout) / f"{archive}{ending}") for layout in LAYOUTS for ending in (".zip", ""))
    return find_data(root, places, PUBLISHED)


def known_checksums() -> dict[str, str]:
    """Map the name of a published archive to its sha256."""
    lines = Path(__file__).with_name("omniglot.sha256").read_text(encoding="ascii").splitlines()
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def read_archive(path: Path) -> dict[tuple[str, str], list[np.ndarray]]:
    """Map (alphabet, character) to its drawings, scaled down, in the order of their names.

    Raises:
        DataError: the archive or a drawing of it can't be read.
    """
    characters: dict[tuple[str, str], list[np.ndarray]] = {}
    for name, content in _contents(path):
        if match := DRAWING.fullmatch(name):
            characters.setdefault((match["alphabet"], match["character"]), []).append(_scaled(path, name, content))
    if not characters:
        raise DataError(f"{path}: no drawings: expected <alphabet>/<character>/<drawing>.png. Fetch it again")
    return characters


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all PNG files of an archive or folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*.png")):
            yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
                yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole zip archive ({error}): truncated? Fetch it again") from None


def _scaled(path: Path, name: str, content: bytes) -> np.ndarray:
    """One drawing at IMAGE_SIZE, every pixel the share of ink among those it covers."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            drawing = image.convert("L")
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"{path}: {name} is not a picture that can be read ({error}): fetch the original again"
        ) from None
    if drawing.size != (DRAWN_SIZE, DRAWN_SIZE):
        width, height = drawing.size
        raise DataError(f"{path}: {name} is {width} x {height}: expected {DRAWN_SIZE} x {DRAWN_SIZE}, as published")
    small = drawing.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return 1 - np.asarray(small, np.float32) / 255


def _check_numbers(root: Path, characters: dict[tuple[str, str], list[np.ndarray]]) -> None:
    """Refuse characters with more or fewer drawings than most have: files are missing or don't belong there."""
    usual = Counter(map(len, characters.values())).most_common(1)[0][0]
    for (alphabet, character), drawings in characters.items():
        if len(drawings) != usual:
            raise DataError(
                f"{root}: Omniglot's {alphabet}/{character} has {len(drawings)} drawings, the others {usual}: "
                f"unpacked in part? Fetch it again"
            )
