"""An exported reader: a folder that is whole or refused, and holds data alone.

```
FOLDER/
  model.safetensors   the weights
  config.yaml         the experiment, resolved
  memory/             the memory, with checksums of its own: it changes when people write and erase
  manifest.json       format, versions, the encoder's identity, the answers, what scores are divided by, checksums
```

Opening it builds classes of memnets and torch by their names in `config.yaml`, and no others. No pickle.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from safetensors import SafetensorError
from safetensors.torch import load_file

from memnets.config import Experiment, build, load
from memnets.files import sha256
from memnets.models.base import SequenceModel
from memnets.retrieval.base import MemoryFolderError
from memnets.retrieval.cached_encoder import CachedEncoder
from memnets.retrieval.encoder import Encoder
from memnets.serving.answer import Limits
from memnets.serving.class_reader import ClassReader
from memnets.serving.memory_reader import MemoryReader, Retrieval
from memnets.serving.reading import Reader
from memnets.serving.span_passages import SpanPassages
from memnets.serving.writing_reader import WritingReader
from memnets.tasks.base import Task
from memnets.tasks.served import ServedTask

FORMAT = 1
MANIFEST, CONFIG, MODEL, MEMORY = "manifest.json", "config.yaml", "model.safetensors", "memory"
TRUSTED = ("memnets.", "torch.nn.", "torch.optim.")
"""Packages whose classes a folder may name."""


class FolderError(Exception):
    """An exported folder that can't be opened or written. Says which, why, and what to do."""


def open_folder(folder: Path, overrides: Sequence[str] = (), limits: Limits = Limits()) -> MemoryReader:  # noqa: B008
    """Return the reader of an exported folder, on the CPU. Changes of its memory are saved there.

    Raises:
        FolderError: no such folder, one of another format, a damaged file, or another encoder than in training.
        ConfigError: an override that isn't known.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["sha256"].items():
        if not (folder / name).is_file():
            raise FolderError(f"{folder / name} is missing: export the reader anew, or take a copy that is whole")
        if sha256(folder / name) != expected:
            raise FolderError(
                f"{folder / name} is damaged: its checksum isn't the one in {MANIFEST}; export the reader anew"
            )
    refuse_code(folder / CONFIG)
    experiment = build(load(folder / CONFIG, overrides))
    task = served_task(experiment.task, folder)
    encoder = plain(task.encoder)
    if encoder.identity != manifest["encoder"]:
        raise FolderError(
            f"{folder}: its reader was trained with another encoder ({manifest['encoder'][:10]}) than the one found "
            f"here ({encoder.identity[:10]}); put that one in its place, or name its folder: "
            f"task.encoder.encoder.name=PATH"
        )
    _load_weights(experiment.model, folder / MODEL)
    reader = _reader(folder, experiment, task, manifest["answers"])
    kind: Any = type(task.memory(encoder))
    try:
        memory = kind.load(folder / MEMORY, encoder)
    except MemoryFolderError as error:
        raise FolderError(str(error)) from error
    retrieval = Retrieval(task.relevance, task.selection, manifest["score_unit"])
    return MemoryReader(memory, retrieval, reader, folder / MEMORY, limits, manifest["name"], manifest["example"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what an exported folder says of itself.

    Raises:
        FolderError: none is there, it is damaged, or its format is unknown.
    """
    path = folder / MANIFEST
    advice = "give a folder that scripts/export.py wrote"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except FileNotFoundError:
        raise FolderError(f"{folder} is no exported reader: it has no {MANIFEST}; {advice}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{path} can't be read ({error!r}); {advice}") from error
    if found != FORMAT:
        raise FolderError(f"{folder} has format {found!r}, and this version of memnets reads {FORMAT}: export it anew")
    expected = {"name": str, "example": str, "encoder": str, "score_unit": float, "answers": list, "sha256": dict}
    wrong = [key for key, kind in expected.items() if not isinstance(manifest.get(key), kind)]
    if wrong or {CONFIG, MODEL} - manifest["sha256"].keys():
        raise FolderError(f"{path} is damaged: it lacks {', '.join(wrong) or 'checksums'}; {advice}")
    return manifest


def served_task(task: Task, folder: Path) -> ServedTask:
    """Return the task once it is clear that its reader can be served.

    Raises:
        FolderError: it reads no external memory of texts.
    """
    if not isinstance(task, ServedTask):
        raise FolderError(
            f"{folder}: its task is {type(task).__name__}, and only a reader of a memory of texts can be exported; "
            f"train one with experiment=people_qa, people_generation or squad_reading"
        )
    return task


def _reader(folder: Path, experiment: Experiment, task: ServedTask, answers: list[str]) -> Reader:
    """Return what answers: by spans of the passages, or by the answers that its model's classes are, or their words."""
    model = experiment.model.eval()
    if task.spans is not None:
        return SpanPassages(model, task.spans)
    if len(answers) != experiment.task.spec.output_size:
        told = f"{len(answers)} answers, and its model has {experiment.task.spec.output_size}"
        raise FolderError(f"{folder} has {told}: export it anew")
    return ClassReader(model, answers) if task.writing is None else WritingReader(model, answers, task.writing)


def plain(encoder: Encoder) -> Encoder:
    """Return the encoder without a cache: what people ask is kept on no disk."""
    return encoder.encoder if isinstance(encoder, CachedEncoder) else encoder


def refuse_code(path: Path) -> None:
    """Raise where a configuration names anything but classes of memnets and torch: a folder is data, not code.

    Raises:
        FolderError: it does, or is no YAML.
    """
    try:
        nodes = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (ValueError, yaml.YAMLError) as error:
        raise FolderError(f"{path} can't be read: {error}") from error
    while nodes:
        node = nodes.pop()
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        if isinstance(node, dict) and "_target_" in node and not _is_class(str(node["_target_"])):
            raise FolderError(f"{path} names {node['_target_']}: only classes of {', '.join(TRUSTED)} are built")


def _is_class(target: str) -> bool:
    """Whether it is a class of a trusted package, and not one that a module of it has imported."""
    try:
        found = get_object(target) if target.startswith(TRUSTED) else None
        return isinstance(found, type) and found.__module__.startswith(TRUSTED)
    except (ImportError, ValueError, AttributeError):
        return False


def _load_weights(model: SequenceModel, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise FolderError(f"{path} doesn't fit the model of {CONFIG}: {error}") from error


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold a folder, so that no two processes change it at once.

    Raises:
        FolderError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FolderError(f"{folder} is in use: another process asks or exports it; stop that one first") from None
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `folder` when the block ends, and vanishes if it fails."""
    partial, old = folder.with_name(f".{folder.name}.partial"), _old(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Where a process was killed between the two moves that replace a folder, put the old one back."""
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
