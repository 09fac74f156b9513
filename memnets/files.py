"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
