"""Weights of an earlier run, or a part of them, as those that training begins with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError
from memnets.training.run import find_checkpoint


def load_part(model: nn.Module, path: Path, part: str = "") -> None:
    """Put the weights of a checkpoint's model, or those of one of its parts, where the model has them.

    Averaged ones where there are any. Of a finished run the weights that were tested are taken.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged; either model has no such part; or names or shapes of
            the two differ.
    """
    found = find_checkpoint(path)
    tensors = checkpoint.load(found, torch.device("cpu")).tensors
    saved = _part({**tensors["model"], **tensors.get("average", {})}, part)
    own = _part(model.state_dict(), part)
    if not saved or not own:
        where = found if not saved else type(model).__name__
        raise CheckpointError(f"trainer.initial_part={part}: {where} has no weights of that name")
    differing = [name for name in sorted(saved.keys() | own.keys()) if _shape(saved, name) != _shape(own, name)]
    if differing:
        shown = "".join(f"\n  {name}: {_shape(saved, name)} there, {_shape(own, name)} here" for name in differing[:5])
        raise CheckpointError(
            f"{found} does not fit this model{f' in its part {part}' if part else ''}: {len(differing)} weights differ:"
            f"{shown}\nConfigure the model as that run did, or choose a part that is the same (trainer.initial_part)"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _part(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not part or name.startswith(f"{part}.")}


def _shape(weights: dict[str, Tensor], name: str) -> str:
    return "x".join(map(str, weights[name].shape)) or "1" if name in weights else "none"
