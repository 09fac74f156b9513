"""What a person puts in place of a configuration's values on the command line, read and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from memnets.check import ConfigError, Problem, nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("model", "task", "optim", "experiment", "sweep")


def choices(group: str, configs: Path = CONFIGS) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (configs / group).glob("*.yaml"))


def parse_override(text: str) -> Override:
    """Read one override.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            [Problem(text, f"not an override; write key=value ({' '.join(str(error).split())})")]
        ) from error


def forced(override: Override, configs: Path) -> str:
    """Let any key be set: `check` judges it, with better words than the composer's."""
    if override.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
        advice = "Hydra's own settings are not used here: folders are runtime.runs_dir's, grids -m's or a sweep file's"
        raise ConfigError([Problem(override.key_or_group, advice)])
    text = str(override.input_line)
    if override.type == OverrideType.DEL or (configs / override.key_or_group).is_dir():
        return text
    return "++" + text.lstrip("+")


def choice_problems(override: Override, configs: Path) -> list[Problem]:
    """What is wrong with the choice of a group's file."""
    group, choice = override.key_or_group, override.value()
    if not (configs / group).is_dir() or override.type == OverrideType.DEL:
        return []
    if override.is_sweep_override() or choice in choices(group, configs):
        return []
    near = nearest(str(choice), choices(group, configs))
    return [Problem(group, f"there is no {choice!r}{near or '.'} Choices: {', '.join(choices(group, configs))}")]


def changed_value(override: Override) -> tuple[str, Any]:
    """Return the key and the value that an override gives to a configuration which is composed already.

    A group within a part, as in `task/relevance=bm25`, gives what its file holds, in the place of all that was there.

    Raises:
        ConfigError: it is a whole part, a deletion or several values, or the group has no such file.
    """
    key = override.key_or_group
    if override.type == OverrideType.DEL or override.is_sweep_override() or key in GROUPS:
        advice = "only single values and groups within a part can be changed here: key=value, task/relevance=bm25"
        raise ConfigError([Problem(str(override.input_line), advice)])
    if problems := choice_problems(override, CONFIGS):
        raise ConfigError(problems)
    if not (CONFIGS / key).is_dir():
        return key, override.value()
    path = CONFIGS / key / f"{override.value()}.yaml"
    return key.replace("/", "."), yaml.safe_load(path.read_text(encoding="utf-8"))
