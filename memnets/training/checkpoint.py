"""Checkpoints that are whole or absent: written aside, checksummed, synced to disk, then renamed. No pickle anywhere.

A checkpoint is a folder: `<name>.safetensors` for each group of tensors, `state.json` for everything else, and
`manifest.json` with the sha256 of each file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memnets.files import sha256, write_synced
from memnets.training.distributed import Processes

MANIFEST, STATE = "manifest.json", "state.json"


class CheckpointError(Exception):
    """A checkpoint that can't be used. The message says which, why, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: groups of tensors by name, and the JSON state."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    own: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    group: Processes,
) -> Path:
    """Write checkpoint `step_<step>` below `folder`; return its path.

    The leading process writes `tensors` and `state`, every process its `own` tensors under `<name>.rank<r>`. Nothing
    with the final name exists before all of it is on disk.
    """
    final, partial = step_folder(folder, step), folder / f".partial_{step:08d}"
    if group.leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    group.wait()
    for name, named in own.items():
        _write_tensors(partial / f"{name}.rank{group.rank}.safetensors", named)
    if group.leads:
        for name, named in tensors.items():
            _write_tensors(partial / f"{name}.safetensors", named)
        write_synced(partial / STATE, json.dumps(state, indent=1))
    group.wait()
    if group.leads:
        _seal(partial, final)
    group.wait()
    return final


def load(path: Path, device: torch.device, rank: int = 0) -> Checkpoint:
    """Read a checkpoint after verifying every file's checksum; of per-process tensors only this rank's.

    Raises:
        CheckpointError: a file is missing, altered or unreadable.
    """
    verify(path)
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        name, _, owner = file.name.removesuffix(".safetensors").partition(".rank")
        if owner in ("", str(rank)):
            tensors[name] = load_file(file, device=str(device))
    return Checkpoint(path, tensors, json.loads((path / STATE).read_text()))


def load_own(path: Path, group: Processes) -> Checkpoint:
    """Read a checkpoint to go on from, by as many processes as wrote it.

    Raises:
        CheckpointError: as for `load`, or other processes wrote it.
    """
    saved = load(path, group.device, group.rank)
    if saved.state["processes"] != group.count:
        raise CheckpointError(
            f"{path} was written by {saved.state['processes']} processes, which saw other batches than "
            f"{group.count} would: resume with as many"
        )
    return saved


def verify(path: Path) -> None:
    """Compare a checkpoint's files with its manifest.

    Raises:
        CheckpointError: no manifest, or a file that is missing or altered.
    """
    advice = "Remove this folder to resume from the checkpoint before it, if there is one."
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no whole checkpoint: its {MANIFEST} can't be read ({error}). {advice}"
        ) from error
    for name, expected in manifest["sha256"].items():
        if not (path / name).exists():
            raise CheckpointError(f"{path / name} is missing. {advice}")
        if sha256(path / name) != expected:
            raise CheckpointError(f"{path / name} is damaged: its checksum is not the one in {MANIFEST}. {advice}")


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints below a folder, oldest first; what was cut off while being written is none."""
    return sorted(path for path in folder.glob("step_*") if (path / MANIFEST).exists())


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint below a folder."""
    return next(reversed(checkpoints(folder)), None)


def prune(folder: Path, keep: int, also: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and the one of step `also`, and what was left half written."""
    spared = checkpoints(folder)[-keep:] + ([] if also is None else [step_folder(folder, also)])
    for path in folder.iterdir():
        if path not in spared:
            _discard(path)


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step_{step:08d}"


def _write_tensors(path: Path, named: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}, path)
    _sync(path)


def _seal(partial: Path, final: Path) -> None:
    files = sorted(path for path in partial.iterdir())
    write_synced(partial / MANIFEST, json.dumps({"sha256": {path.name: sha256(path) for path in files}}, indent=1))
    _sync(partial)
    if final.exists():
        _discard(final)  # the same step of the same run, from before a cut
    partial.rename(final)
    _sync(final.parent)


def _discard(path: Path) -> None:
    """Delete a folder under another name, so that a half deleted one is never taken for a checkpoint."""
    aside = path.with_name(f".discarded_{path.name.lstrip('.')}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
