"""From a run folder to a folder that can be asked and edited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from memnets import __version__
from memnets.config import Experiment, build, load
from memnets.files import sha256, write_synced
from memnets.serving.answer import Refused
from memnets.serving.folder import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MEMORY,
    MODEL,
    FolderError,
    in_use,
    new_folder,
    open_folder,
    plain,
    put_back,
    served_task,
)
from memnets.tasks.served import ServedTask
from memnets.training import checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model


def export(path: Path, out: Path, overrides: Sequence[str] = (), overwrite: bool = False) -> str:
    """Write the reader of a run folder or checkpoint, with its averaged weights if it has any; return what it answers.

    A folder that is there is replaced, its memory too, when the new one is whole and has answered a question.

    Raises:
        FolderError: the run has no memory of texts, its reader can't be asked, or `out` must not be replaced.
        CheckpointError: no checkpoint, or a damaged one.
        ConfigError: no such run, or an override that isn't known.
    """
    found = find_checkpoint(path)
    run = found.parent.parent
    config = load(run / "config.yaml", overrides)
    put_back(out)
    _refuse_to_replace(out, overwrite)
    experiment = build(config)
    task = served_task(experiment.task, run)
    restore_model(checkpoint.load(found, torch.device("cpu")), experiment.model, averaged=True)
    with in_use(out) if out.exists() else nullcontext(), new_folder(out) as partial:
        _fill(partial, experiment, task, f"{run.name}/{found.name}")
        try:
            reader = open_folder(partial)
            answer = reader.ask(reader.example)
        except Refused as error:
            advice = "if its relevance is one for training alone, choose another: task/relevance=hybrid"
            raise FolderError(f"{run} can't be asked anything: {error}; {advice}") from error
    told = f"{answer.text} ({answer.ranking[0][1]:.3f})" if answer.ranking else "(no answer)"
    return f"{reader.example} {told}"


def _fill(folder: Path, experiment: Experiment, task: ServedTask, source: str) -> None:
    served = task.served()
    weights = {name: tensor.contiguous().clone() for name, tensor in experiment.model.state_dict().items()}
    write_synced(folder / MODEL, save(weights))
    write_synced(folder / CONFIG, yaml.safe_dump(experiment.config, sort_keys=False))
    served.memory.save(folder / MEMORY)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": experiment.name,
        "source": source,
        "example": served.example,
        "versions": {"memnets": __version__, "torch": torch.__version__},
        "encoder": plain(task.encoder).identity,
        "score_unit": served.score_unit,
        "answers": list(served.answers),
        "sha256": {name: sha256(folder / name) for name in (MODEL, CONFIG)},
    }
    write_synced(folder / MANIFEST, json.dumps(manifest, indent=1))


def _refuse_to_replace(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not all((out / name).exists() for name in (MANIFEST, MEMORY)):
        raise FolderError(f"{out} is there, and is no exported reader, so it is not replaced: choose another")
    if not overwrite:
        raise FolderError(
            f"{out} is there already, with what people wrote into its memory: choose another, or overwrite=true to "
            f"replace both reader and memory"
        )
