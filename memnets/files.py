"""Where data lies; files that are replaced whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def data_root(configured: str | None) -> Path:
    """Where data lies: `MEMNETS_DATA` if set, else the configured path, else a cache folder in the user's home."""
    return Path(os.environ.get("MEMNETS_DATA") or configured or "~/.cache/memnets").expanduser()


def write_synced(path: Path, content: str | bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    write_synced(aside, content)
    aside.replace(path)


def sha256(path: Path) -> str:
    """Return a file's checksum."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
