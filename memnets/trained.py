"""A trained language model, as the commands that use one take it from its run folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from memnets.check import ConfigError, Problem
from memnets.config import Experiment, build, load
from memnets.models.base import SequenceModel
from memnets.tasks.language_modelling import LanguageModelling
from memnets.training import checkpoint
from memnets.training.distributed import choose_device
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model


class TrainedLanguageModel(NamedTuple):
    """A model that is done with training, on its device, the task it read, and where it comes from."""

    model: SequenceModel
    task: LanguageModelling
    experiment: Experiment
    checkpoint: Path
    device: torch.device

    @property
    def folder(self) -> Path:
        """Of its run."""
        return self.checkpoint.parent.parent


def read_language_model(path: Path, overrides: list[str]) -> TrainedLanguageModel:
    """Return the model of a run folder or checkpoint, with its averaged weights if it keeps any.

    Raises:
        ConfigError: no such folder, an override that isn't known, or the run's task is not language modelling.
        CheckpointError: no checkpoint, or a damaged one.
        DataError: the texts, which hold the vocabulary, are missing.
    """
    found = find_checkpoint(path)
    experiment = build(load(found.parent.parent / "config.yaml", overrides))
    task = experiment.task
    if not isinstance(task, LanguageModelling):
        advice = f"its task is {type(task).__name__}; a language model is trained with task=language_modelling"
        raise ConfigError([Problem("checkpoint", f"{path} holds no language model: {advice}")])
    device = choose_device(experiment.runtime.device)
    model = experiment.model.to(device).eval()
    restore_model(checkpoint.load(found, device), model, averaged=True)
    return TrainedLanguageModel(model, task, experiment, found, device)


def weights_hash(model: nn.Module) -> str:
    """Hash of all that a checkpoint holds of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()
