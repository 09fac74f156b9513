"""Every mutant of a configuration is refused: no typo ever runs."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_configs import CONFIGS, EXPERIMENTS
from tiers import but_for_long

from memnets.check import ConfigError
from memnets.config import check, compose
from memnets.overrides import choices
from memnets.sweep import grid_points, plan


def paths(node: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a configuration, as a path."""
    for key, value in node.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def mutants(config: dict[str, Any], only: set[tuple[str, ...]] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration with one key, or one of `only`, misspelt, retyped, added or, where it is required, dropped."""
    for path in paths(config):
        if only is not None and path not in only:
            continue
        parent = config
        for key in path[:-1]:
            parent = parent[key]
        last, where = path[-1], ".".join(path)
        if path not in (("name",),):
            yield f"misspelt {where}", _with(config, path, lambda p, k=last: p.__setitem__(k + "x", p.pop(k)))
        if last in ("_target_", "seed") or path in (("model",), ("task",), ("optim",)):
            yield f"dropped {where}", _with(config, path, lambda p, k=last: p.pop(k))
        for wrong in retyped(parent[last]):
            yield f"{where}={wrong!r}", _with(config, path, lambda p, k=last, w=wrong: p.__setitem__(k, w))
        if isinstance(parent[last], dict):
            yield f"surplus below {where}", _with(config, path, lambda p, k=last: p[k].__setitem__("surplus", 1))


def retyped(value: Any) -> list[Any]:
    """Values of other types than this one's."""
    if isinstance(value, bool):
        return [{"no": "such"}, "perhaps", 1]
    if isinstance(value, int):
        return [{"no": "such"}, "many", 1.5, True]
    if isinstance(value, float):
        return [{"no": "such"}, "fast", True]
    if isinstance(value, str):
        return [{"no": "such"}, 5, True, [value]]
    return [12345.678] if isinstance(value, dict) else [{"no": "such"}]


def _with(config: dict[str, Any], path: tuple[str, ...], change: Any) -> dict[str, Any]:
    mutant = copy.deepcopy(config)
    parent = mutant
    for key in path[:-1]:
        parent = parent[key]
    change(parent)
    return mutant


class TestMutants:
    """`optional` keys may be misspelt into a default only if the misspelling itself is refused: it always must be."""

    SOURCES = (
        ["experiment=null"]
        + [f"{group}={name}" for group in ("model", "task", "optim") for name in choices(group)]
        + [f"experiment={name}" for name in EXPERIMENTS]
    )

    @pytest.mark.parametrize("of", but_for_long(["file", "whole"], "file".__eq__))
    @pytest.mark.parametrize("source", SOURCES)
    def test_every_mutant_is_refused(self, source: str, of: str) -> None:
        """Of what the file itself sets; and, the long ones, of the whole configuration."""
        config = compose([source]).config
        check(config)
        group, _, name = source.partition("=")
        file = CONFIGS / ("train.yaml" if name == "null" else f"{group}/{name}.yaml")
        own = yaml.safe_load(file.read_text())
        own = {key: value for key, value in (own if group == "experiment" else {group: own}).items() if key in config}
        count = 0
        for mutant_name, mutant in mutants(config, None if of == "whole" else set(paths(own))):
            count += 1
            try:
                check(mutant)
            except ConfigError:
                continue
            pytest.fail(f"{mutant_name} was accepted")
        assert count > (20 if of == "whole" else 2)

    def test_every_mutant_of_a_sweep_is_refused(self, tmp_path: Path) -> None:
        """One stands for all: their keys are Hydra's and those of a run, which `compose` checks alike."""
        sweep = "foundation"
        shutil.copytree(CONFIGS, tmp_path / "configs")
        path = tmp_path / "configs" / "sweep" / f"{sweep}.yaml"
        text = re.sub(r"seed: \S+", "seed: 0,1", path.read_text())
        changes = [
            ("# @package _global_", "# @package _globe_"),
            ("hydra:", "hydraa:"),
            ("sweeper:", "sweper:"),
            ("params:", "param:"),
            ("seed:", "sed:"),
            ("experiment:", "experimnt:"),
            ("experiment: ", "experiment: no_such_one,"),
            ("hydra:", "lr: 3\nhydra:"),
            ("hydra:", "trainer:\n  max_step: 3\nhydra:"),
        ]
        for old, new in changes:
            assert old in text
            path.write_text(text.replace(old, new, 1))
            with pytest.raises(ConfigError):
                plan(
                    grid_points(compose([f"sweep={sweep}"], path.parent.parent), [f"sweep={sweep}"]), path.parent.parent
                )
