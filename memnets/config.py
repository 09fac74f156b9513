"""From YAML files and command-line overrides to a checked configuration, and from there to objects.

With `check.py` and `overrides.py` this is all between Hydra's files and plain Python: compose, check, build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from memnets.check import Checker, ConfigError, Problem, nearest
from memnets.contracts import Spec
from memnets.identity import run_name
from memnets.models.base import SequenceModel
from memnets.overrides import CONFIGS, GROUPS, changed_value, choice_problems, choices, forced, parse_override
from memnets.tasks.base import Task
from memnets.training.settings import LoggerSettings, RuntimeSettings, TrainerSettings

CLOSED: dict[str, type] = {"trainer": TrainerSettings, "logger": LoggerSettings, "runtime": RuntimeSettings}
TOP_LEVEL = ("name", "seed", "model", "task", "optim", *CLOSED)
PLACES: dict[str, tuple[type, tuple[str, ...]]] = {
    "model": (SequenceModel, ("spec",)),
    "task": (Task, ()),
    "optim": (torch.optim.Optimizer, ("params",)),
}
"""The open nodes: the class each must build, and the arguments the builder supplies itself."""


@dataclass(frozen=True)
class Composed:
    """A composed configuration as plain data, and the grid of a sweep if there is one."""

    config: dict[str, Any]
    grid: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """Everything one run needs, built."""

    name: str
    seed: int
    task: Task
    model: SequenceModel
    make_optimizer: Callable[[Any], torch.optim.Optimizer]
    trainer: TrainerSettings
    logger: LoggerSettings
    runtime: RuntimeSettings
    config: dict[str, Any]


def compose(overrides: Sequence[str], configs: Path = CONFIGS) -> Composed:
    """Compose the configuration Hydra's way: `group=choice`, `key=value`, `+key=value`, `~key`.

    A key need not stand in a YAML to be set: whatever a signature takes can be overridden. What no signature takes is
    found by `check`.

    Raises:
        ConfigError: an override can't be read, or a group has no such choice.
    """
    parsed = [parse_override(text) for text in overrides if text not in ("experiment=null", "sweep=null")]
    problems = [problem for override in parsed for problem in choice_problems(override, configs)]
    if problems:
        raise ConfigError(problems)
    try:
        with initialize_config_dir(str(configs), version_base="1.3"):
            told = [forced(override, configs) for override in parsed]
            composed = hydra_compose("train", overrides=told, return_hydra_config=True)
            grid = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create())
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            config = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError([Problem("", " ".join(str(error).split()))]) from error
    assert isinstance(config, dict)
    assert isinstance(grid, dict)
    return Composed({str(k): v for k, v in config.items()}, {str(k): str(v) for k, v in grid.items()})


def check(config: dict[str, Any]) -> None:
    """Hold every key against the signature it will be passed to, before anything is built.

    Raises:
        ConfigError: listing every misspelt, missing, surplus or wrongly typed key.
    """
    checker = Checker()
    checker.keys("", [key for key in config if key not in GROUPS[3:]], TOP_LEVEL)
    for key in set(config) & set(GROUPS[3:]):
        checker.add(key, f"a config of group '{key}' must begin with '# @package _global_' to set anything")
    for name, settings in CLOSED.items():
        node = config.get(name)
        if node is not None and not isinstance(node, dict):
            checker.add(name, f"expected keys of {settings.__name__}, not {node!r}")
        else:
            checker.call(name, settings, node or {})
    for name, (kind, supplied) in PLACES.items():
        _check_place(checker, name, config.get(name), kind, supplied)
    checker.value("seed", config.get("seed", "???"), int)
    if isinstance(config.get("seed"), int) and not 0 <= config["seed"] < 2**32:
        checker.add("seed", f"expected a number from 0 to 2^32 - 1, not {config['seed']}")
    checker.value("name", config.get("name"), str | None)
    if isinstance(config.get("name"), str) and not re.fullmatch(r"[\w.-]+", config["name"]):
        checker.add("name", f"expected letters, digits, '_', '-' and '.', as it names a folder, not {config['name']!r}")
    problems = checker.report() or _refused_values(config)
    if problems:
        raise ConfigError(problems)


def build(config: dict[str, Any], task: Task | None = None) -> Experiment:
    """Build a checked configuration. The model's weights depend on `seed` alone.

    `task` is one that was built from this very configuration already: what it has prepared is not prepared again.

    Raises:
        ConfigError: a constructor refuses its values, or the model can't read the task's inputs.
        DataError: the task's files are missing or malformed.
    """
    task = _construct("task", config["task"]) if task is None else task
    torch.manual_seed(config["seed"])
    model = build_model(config, task.spec)
    settings = {name: _construct(name, _targeted(name, config.get(name))) for name in CLOSED}
    experiment = Experiment(
        name=run_name(config),
        seed=config["seed"],
        task=task,
        model=model,
        make_optimizer=lambda params: _construct("optim", config["optim"], params=params),
        config=config,
        **settings,
    )
    _check_metrics(experiment)
    _refusing("task", experiment.task.test_sets)
    _refusing("optim", lambda: experiment.make_optimizer([torch.nn.Parameter(torch.zeros(1))]))
    return experiment


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the plain defaults of this project's own signatures written out.

    A run's `config.yaml` then says the sizes and rates it depends on, and naming such a default changes no run's
    identity. Components that a constructor makes by default are left to it.
    """
    closed = {name: _filled(config.get(name) or {}, settings) for name, settings in CLOSED.items()}
    return {key: _filled(value) for key, value in config.items() if key not in CLOSED} | closed


def _filled(node: Any, target: Any = None) -> Any:
    if isinstance(node, list):
        return [_filled(item) for item in node]
    if not isinstance(node, dict):
        return node
    filled = {key: _filled(value) for key, value in node.items()}
    if str(filled.get("_target_", "")).startswith("memnets."):
        target = get_object(filled["_target_"])
    for name, parameter in inspect.signature(target).parameters.items() if target else ():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if isinstance(default, bool | int | float | str | list | None):
            filled.setdefault(name, default)
    return filled


def build_model(config: dict[str, Any], spec: Spec) -> SequenceModel:
    """Build the model of a configuration for a task's sizes.

    Raises:
        ConfigError: its constructor refuses its values, or can't read such inputs.
    """
    model: SequenceModel = _construct("model", config["model"], spec=spec)
    return model


def load(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a run folder's `config.yaml` with overrides applied, `key=value` or `task/relevance=bm25`, checked.

    Raises:
        ConfigError: no such file, what `changed_value` refuses, or what `check` finds.
    """
    if not path.exists():
        raise ConfigError(
            [Problem("checkpoint", f"{path} does not exist: give a run folder or one of its checkpoints")]
        )
    config = OmegaConf.create(yaml.safe_load(path.read_text()))
    for override in map(parse_override, overrides):
        key, value = changed_value(override)
        OmegaConf.update(config, key, value, merge="/" not in override.key_or_group, force_add=True)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    result = {str(key): value for key, value in plain.items()}
    check(result)
    return result


def _check_place(checker: Checker, name: str, node: Any, kind: type, supplied: tuple[str, ...]) -> None:
    if not isinstance(node, dict):
        checker.add(name, f"missing: choose one with {name}=NAME ({', '.join(choices(name))})")
        return
    target = checker.component(name, node, supplied)
    if target is not None and not (isinstance(target, type) and issubclass(target, kind)):
        checker.add(f"{name}._target_", f"expected a {kind.__name__}, not {target}")


def _refused_values(config: dict[str, Any]) -> list[Problem]:
    """What the closed nodes' own rules say, once every key and type is right."""
    problems = []
    for name in CLOSED:
        try:
            _construct(name, _targeted(name, config.get(name)))
        except ConfigError as error:
            problems += error.problems
    return problems


def _targeted(name: str, node: dict[str, Any] | None) -> dict[str, Any]:
    return {"_target_": f"{CLOSED[name].__module__}.{CLOSED[name].__name__}", **(node or {})}


def _construct(path: str, node: dict[str, Any], **supplied: Any) -> Any:
    """Instantiate a node, with arguments that no YAML can give."""
    return _refusing(path, lambda: instantiate({**node, "_partial_": True}, _convert_="all")(**supplied))


def _refusing(path: str, action: Callable[[], Any]) -> Any:
    """Do something; a ValueError in it becomes a configuration error with its path."""
    try:
        return action()
    except HydraException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError([Problem(path, str(error.__cause__))]) from error
        raise (error.__cause__ or error) from None
    except ValueError as error:
        raise ConfigError([Problem(path, str(error))]) from error


def _check_metrics(experiment: Experiment) -> None:
    task, names = experiment.task, ("loss", *experiment.task.metric_names)
    for key in ("early_stopping", "next_phase"):
        criterion = getattr(experiment.trainer, key)
        if criterion is not None and criterion.metric not in names:
            near = nearest(criterion.metric, names) or f"; choose from {', '.join(names)}"
            raise ConfigError([Problem(f"trainer.{key}.metric", f"{type(task).__name__} has no such metric{near}")])
    if "next_phase" in experiment.config.get("trainer", {}) and not experiment.model.phases_left:
        advice = f"{type(experiment.model).__name__} as configured has no phases (MemN2N has with linear_start)"
        raise ConfigError([Problem("trainer.next_phase", advice)])
