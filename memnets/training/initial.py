"""Weights of an earlier run, or a part of them, as those that training begins with."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError
from memnets.training.run import find_checkpoint, status_of


def initial_checkpoint(given: str, runs_dir: Path, seed: int) -> Path:
    """Return the checkpoint of `trainer.initial_weights`: at a path, or of the run of that name and of the same seed.

    Raises:
        CheckpointError: there is none, or several finished runs have that name and seed.
    """
    if "/" in given or Path(given).exists():
        return find_checkpoint(Path(given))
    named = [path.parent for path in runs_dir.glob(f"{given}-*/config.yaml") if _run_name(path) == given]
    found = [folder for folder in sorted(named) if _seed(folder) == seed and status_of(folder).get("status") == "done"]
    if len(found) != 1:
        count = f"{len(found)} finished runs" if found else "no finished run"
        advice = f"name one: {', '.join(map(str, found))}" if found else f"train one (experiment={given} seed={seed})"
        raise CheckpointError(
            f"trainer.initial_weights={given}: {count} of that name with seed={seed} in {runs_dir}; {advice}, or give "
            f"a path"
        )
    return find_checkpoint(found[0])


def _run_name(config: Path) -> str:
    return config.parent.name.rpartition("-")[0]


def _seed(folder: Path) -> int | None:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return config.get("seed") if isinstance(config, dict) else None


def load_part(model: nn.Module, found: Path, part: str = "") -> None:
    """Put the weights of a checkpoint's model, or those of one of its parts, where the model has them.

    Averaged ones where there are any.

    Raises:
        CheckpointError: the checkpoint is damaged; either model has no such part; or names or shapes of the two differ.
    """
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
