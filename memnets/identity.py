"""Which run a configuration is: its name, its hash, its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memnets.training.checkpoint import MANIFEST, CheckpointError
from memnets.training.initial import initial_checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.settings import HOUSEKEEPING, RuntimeSettings


def run_name(config: dict[str, Any]) -> str:
    """Return the experiment's name, or one made of the model's and the task's."""
    classes = [config[node]["_target_"].rpartition(".")[2].lower() for node in ("model", "task")]
    return config.get("name") or "_".join(classes)


def identity(config: dict[str, Any]) -> str:
    """Hash of all that can change a result: the configuration without its name, the logger and housekeeping.

    Nor does it matter how many replicas a run was one of.
    """
    kept = {key: value for key, value in config.items() if key not in ("logger", "runtime", "name")}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key != "num_replicas"}
    runtime = config.get("runtime") or {}
    kept["runtime"] = {k: v for k, v in runtime.items() if k not in HOUSEKEEPING}
    if (start := runtime.get("resume", "auto")) not in ("auto", "never"):
        kept["start"] = _start(start, lambda: find_checkpoint(Path(start)))
    if (initial := kept["trainer"].get("initial_weights")) is not None:
        kept["initial"] = _start(initial, lambda: initial_checkpoint(initial, runs_dir(config), config["seed"]))
    return hashlib.sha256(json.dumps(_numbers(kept), sort_keys=True).encode()).hexdigest()[:10]


def _start(given: str, find: Callable[[], Path]) -> str:
    """What a run starts from: the checksums of a checkpoint's files, or words that will be refused when it is run."""
    try:
        return (find() / MANIFEST).read_text()
    except CheckpointError:
        return given


def _numbers(node: Any) -> Any:
    """The same numbers, however they are written: 10 is 10.0."""
    if isinstance(node, dict):
        return {key: _numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(item) for item in node]
    return float(node) if isinstance(node, int) and not isinstance(node, bool) else node


def run_folder(config: dict[str, Any]) -> Path:
    """Where the run of this configuration lives: its name and the hash of what it is."""
    return runs_dir(config) / f"{run_name(config)}-{identity(config)}"


def runs_dir(config: dict[str, Any]) -> Path:
    """Where runs live."""
    return Path((config.get("runtime") or {}).get("runs_dir", RuntimeSettings.runs_dir))


def replicas(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configurations of the runs that `trainer.num_replicas` makes of one: seed after seed, each as it is alone."""
    alone = {**config, "trainer": {**config["trainer"], "num_replicas": 1}}
    return [{**alone, "seed": config["seed"] + i} for i in range(config["trainer"]["num_replicas"])]


def run_folders(config: dict[str, Any]) -> list[Path]:
    """Where the runs of a configuration live, one for each replica."""
    return [run_folder(own) for own in replicas(config)]
