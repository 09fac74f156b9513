"""A graph memory's folder: edges as safetensors, names as JSON, which is written last and holds both checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from jaxtyping import Int
from torch import Tensor

from memnets.files import sha256, write_atomic, write_synced

FACTS = "graph.json"


class GraphFolderError(Exception):
    """A saved graph memory that can't be used. The message says which, why, and what to do."""


def write_folder(folder: Path, facts: dict[str, Any], edges: Int[Tensor, "edges 3"]) -> None:
    """Write facts and edges; until the facts are whole, the folder holds what it held before."""
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save({"edges": edges})
    checksum = hashlib.sha256(content).hexdigest()
    file = f"edges-{checksum[:16]}.safetensors"
    new = folder / ".new-edges"  # not in place: a file of that name may be the one that is in use
    write_synced(new, content)
    new.replace(folder / file)
    facts = facts | {"edges": file, "edges_sha256": checksum}
    write_atomic(folder / FACTS, json.dumps(facts | {"sha256": _checksum(facts)}, indent=1))
    for other in folder.glob("edges-*.safetensors"):
        if other.name != file:
            other.unlink()


def read_folder(folder: Path) -> tuple[dict[str, Any], Int[Tensor, "edges 3"]]:
    """Return the facts and edges that were written.

    Raises:
        GraphFolderError: there are none, or they are damaged.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        whole = facts.pop("sha256") == _checksum(facts) and sha256(folder / facts["edges"]) == facts["edges_sha256"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise GraphFolderError(f"{folder} is no whole graph memory ({error!r}). Save it again.") from error
    if not whole:
        raise GraphFolderError(f"{folder} is damaged: a checksum is not the one in {FACTS}. Save it again.")
    return facts, safetensors.torch.load_file(folder / facts["edges"])["edges"]


def _checksum(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
