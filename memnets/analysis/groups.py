"""Runs grouped by what was run, whatever the seed; what tells groups apart, and what to call them.

Settings can be left to chance as the seed is, `over=("optim.lr",)`: what chooses among restarts then chooses a value of
theirs too, and the group's label says `optim.lr=chosen`.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from memnets.analysis.runs import APART, Row, Run, flatten

HOUSEKEEPING = ("logger.", *(f"runtime.{key}=" for key in ("runs_dir", "resume", "jobs", "threads", "pictures")))
"""Beginnings of overrides that change no result: a recorded command is read on other machines."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ in their seeds, in the order of these; within one, of the values of `over`.

    Attributes:
        label: the experiment's name and the overrides it was started with.
        runs: at least one, one per seed and values of `over`.
        over: settings, with dots, in which the runs may differ too.
    """

    label: str
    runs: tuple[Run, ...]
    over: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that ran to their end."""
        return tuple(run for run in self.runs if run.done)

    @property
    def references(self) -> Row:
        """What the runs' metrics are compared with, `{"oracle": {"test/accuracy": 1.0}}`: the same for all of them."""
        return next((run.references for run in self.done if run.references), {})

    @property
    def settings(self) -> Row:
        """What the runs have in common, flat: `{"trainer.batch_size": 16}`."""
        return self.runs[0].settings(self.over)

    @property
    def command(self) -> str:
        """One command that repeats all the runs, without what only says where and how they ran."""
        commands = [_portable(str(run.environment.get("command") or "")) for run in self.runs]
        keys = (*self.over, "seed")
        bare = {_without(keys, command) for command in commands}
        if len(set(commands)) == 1:
            return commands[0]
        values = {key: dict.fromkeys(_value(run, key) for run in self.runs) for key in keys}
        if len(bare) > 1 or len(self.runs) != math.prod(map(len, values.values())):
            return f"{commands[0]} (and {len(set(commands)) - 1} others)"
        return " ".join([bare.pop().replace(".py", ".py -m", 1), *(f"{key}={','.join(values[key])}" for key in keys)])


def group_runs(runs: Sequence[Run], over: Sequence[str] = ()) -> list[Group]:
    """Return the runs by configuration, but for the settings named in `over`, ordered by label.

    Groups that would share a label get what they differ in added.
    """
    ordered = sorted(runs, key=lambda run: (run.key(over), run.seed, [_value(run, key) for key in over]))
    members = [tuple(same) for _, same in groupby(ordered, lambda run: run.key(over))]
    groups = [Group(label(runs_of_one[0], over), runs_of_one, tuple(over)) for runs_of_one in members]
    labels = [group.label for group in groups]
    groups = [_told_apart(group, groups) if labels.count(group.label) > 1 else group for group in groups]
    return sorted(groups, key=lambda group: group.label)


def label(run: Run, over: Sequence[str] = ()) -> str:
    """Return the run's name and the overrides it was started with, but for those that don't tell experiments apart.

    Of an override that lists a sweep's values the run's own value is taken; settings in `over` are `chosen`.
    """
    given = run.environment.get("overrides") or overrides(str(run.environment.get("command") or ""))
    words = [word for word in map(str, given) if _tells(word, run)]
    settings = flatten(run.config)
    pairs = (word.lstrip("+").partition("=") for word in words)
    told = [f"{key}={settings.get(key, value)}" for key, _, value in pairs if key not in over]
    return " ".join([run.name, *dict.fromkeys(told), *(f"{key}=chosen" for key in over)])


def overrides(command: str) -> list[str]:
    """Return the `key=value` words of a command."""
    return [word for word in _words(command) if "=" in word and not word.startswith("-")]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings in which groups differ, a value per group; a key that a group lacks is None there."""
    settings = [group.settings for group in groups]
    keys = sorted(set().union(*settings))
    values = {key: [flat.get(key) for flat in settings] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _told_apart(group: Group, groups: Sequence[Group]) -> Group:
    namesakes = [other for other in groups if other.label == group.label]
    here = namesakes.index(group)
    told = [
        f"{key.removesuffix('._target_')}={_short(key, values[here])}" for key, values in _telling(namesakes).items()
    ]
    return replace(group, label=" ".join([group.label, *told]))


def _telling(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the differences without the settings of components that are themselves different."""
    different = differences(groups)
    swapped = [key.removesuffix("_target_") for key in different if key.endswith("._target_")]
    inner = {key for key in different for prefix in swapped if key.startswith(prefix) and key != f"{prefix}_target_"}
    return {key: values for key, values in different.items() if key not in inner}


def _value(run: Run, key: str) -> str:
    """Return a setting as one types it."""
    value = flatten(run.config).get(key)
    return "null" if value is None else str(value)


def _short(key: str, value: Any) -> Any:
    return str(value).rpartition(".")[2] if key.endswith("._target_") else value


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an unbalanced quote: the command was recorded without its quoting
        return command.split()


def _portable(command: str) -> str:
    command = re.sub(r"^python \S*/(?=scripts/\w+\.py )", "python ", command)  # from the project's own folder
    return " ".join(word for word in command.split() if not word.lstrip("+").startswith(HOUSEKEEPING))


def _without(keys: Sequence[str], command: str) -> str:
    words = [word for word in command.split() if word not in ("-m", "--multirun")]
    return " ".join(word for word in words if word.lstrip("'\"+").partition("=")[0] not in keys)


def _tells(override: str, run: Run) -> bool:
    """Whether an override says more than the run's name does."""
    key, _, value = override.lstrip("+").partition("=")
    if key in ("experiment", "sweep", "name") or key.partition(".")[0] in APART:
        return False
    if "." not in key and "," in value:  # a sweep over a group's choices: which one this run made isn't told
        return False
    return not (key in ("model", "task") and value.replace("_", "") in run.name.replace("_", "").split("-"))
