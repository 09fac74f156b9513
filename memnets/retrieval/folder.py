"""A saved memory: a folder that holds the old memory whole until the new one is.

`memory.json` has the checksums of two files: facts as JSON, tensors as safetensors. These are named after their
content, so that new ones lie beside old ones until `memory.json`, replaced in one move, names the new. No pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memnets.files import sha256, write_atomic, write_synced
from memnets.retrieval.base import MemoryFolderError

MANIFEST = "memory.json"
KINDS = ("facts-*.json", "tensors-*.safetensors", ".new-*")


def write_folder(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write facts and tensors, then remove what was there before.

    Raises:
        OSError: the disk is full, or the folder can't be written. What was there before still is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = dict(
        (
            _add(folder, "facts-{}.json", lambda path: write_synced(path, json.dumps(facts))),
            _add(folder, "tensors-{}.safetensors", lambda path: _save(path, whole)),
        )
    )
    write_atomic(folder / MANIFEST, json.dumps(sums, indent=1))
    for kind in KINDS:
        for path in folder.glob(kind):
            if path.name not in sums:
                path.unlink()


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; a full disk, of which the package makes an error of its own, is an OSError here too."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path} can't be written: {error}") from error


def _add(folder: Path, name: str, write: Callable[[Path], None]) -> tuple[str, str]:
    """Write a file under a name that its checksum is part of; return both."""
    new = folder / f".new-{name.partition('-')[0]}"
    write(new)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    checksum = sha256(new)
    path = folder / name.format(checksum[:16])
    new.replace(path)
    return path.name, checksum


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return facts and tensors after comparing the files with their checksums.

    Raises:
        MemoryFolderError: a file is missing, altered or unreadable.
    """
    advice = "Save the memory anew, or take a copy that is whole."
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        for name, expected in sums.items():
            if sha256(folder / name) != expected:
                raise MemoryFolderError(
                    f"{folder / name} is damaged: its checksum isn't the one in {MANIFEST}. {advice}"
                )
        facts, tensors = sorted(sums)
        return json.loads((folder / facts).read_text()), load_file(folder / tensors)
    except (OSError, ValueError, AttributeError) as error:
        raise MemoryFolderError(f"{folder} is no whole memory ({error}). {advice}") from error
