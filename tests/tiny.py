"""A run small enough to train in a blink, for tests of everything around the model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from memnets.config import build, check, compose, with_defaults
from memnets.launch import make_trainer
from memnets.training.distributed import Processes
from memnets.training.logger import RunLogger
from memnets.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
ALONE = Processes(0, 1, torch.device("cpu"))
TINY = (
    "model=lstm",
    "model.hidden_size=8",
    "model.num_layers=1",
    "task.max_length=3",
    "task.eval_sequences=12",
    "task.test_lengths=[4]",
    "trainer.batch_size=4",
    "trainer.max_steps=6",
    "trainer.log_every=2",
    "trainer.eval_every=3",
    "trainer.save_every=100",
    "logger.progress=none",
    "runtime.pictures=false",
)

FEW_PEOPLE = {"num_people": 60, "num_validation_people": 5, "num_test_people": 10}
"""Where a task draws people, so many are enough."""


def tiny_config(*overrides: str) -> dict[str, Any]:
    """A small configuration, checked, with overrides."""
    config = compose([*TINY, *overrides]).config
    check(config)
    return with_defaults(config)


def tiny_trainer(folder: Path, *overrides: str) -> Trainer:
    """A trainer of a small configuration in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = build(tiny_config(*overrides))
    return make_trainer(experiment, folder, RunLogger(folder, experiment.logger, experiment.config), ALONE)


def script(name: str) -> ModuleType:
    """A script as a module, so that its `main` can be called."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
