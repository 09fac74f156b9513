"""What `--help` says: every choice there is, read from the configuration files and signatures themselves."""

from __future__ import annotations

import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from memnets.check import join
from memnets.config import CLOSED
from memnets.overrides import CONFIGS, GROUPS, choices

FLAGS = {"-h": "help", "--help": "help", "-m": "multirun", "--multirun": "multirun", "-c": "cfg", "--cfg": "cfg"}
USAGE = """\
Train a model on a task.

  python scripts/train.py                                an NTM learns to copy
  python scripts/train.py model=lstm task=repeat_copy    any model on any task it can read
  python scripts/train.py experiment=NAME                a recorded experiment; add key=value to change it
  python scripts/train.py -m seed=0,1,2                  several runs: every combination of a,b,c
  python scripts/train.py -m sweep=NAME                  a recorded sweep; add runtime.jobs=2 for two side by side

  -m, --multirun   run every point of a sweep; finished runs are skipped, cut-off ones resumed
  -c, --cfg        print all keys of the configuration, defaults and all, and stop
  -h, --help       this text

The same command resumes a run that was cut off. key=null leaves a part out; a misspelt key is refused (exit code 2).
Exit codes: 0 done, 1 failed, 2 configuration or data at fault, 3 NaN or infinity, 75 interrupted and saved."""


def text(configs: Path = CONFIGS) -> str:
    """Return the help: usage, the choices of every group, and the keys of the closed nodes."""
    blocks = [
        USAGE,
        *(_group(name, configs) for name in GROUPS),
        *(_settings(name, kind) for name, kind in CLOSED.items()),
    ]
    return "\n\n".join(blocks)


def _group(group: str, configs: Path) -> str:
    names = choices(group, configs)
    width = max(map(len, names), default=0)
    lines = [f"  {name:<{width}}  {_first_comment(configs / group / f'{name}.yaml')}".rstrip() for name in names]
    return "\n".join([f"{group}=", *lines])


def _first_comment(path: Path) -> str:
    """First sentence of a YAML's leading comment, or the class it names."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    words = " ".join(line.lstrip("# ") for line in lines if "@package" not in line)
    return re.split(r"(?<=\.) ", words)[0] or str((yaml.safe_load(path.read_text()) or {}).get("_target_", ""))


def _settings(name: str, settings: type) -> str:
    meanings = _attributes(inspect.getdoc(settings) or "")
    lines = []
    for field, parameter in inspect.signature(settings).parameters.items():
        lines.append(f"  {join(name, field)}={_default(parameter.default)}\n      {meanings.get(field, '')}".rstrip())
    return "\n".join([f"{name}:", *lines])


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | str) else "..."


def _attributes(docstring: str) -> dict[str, str]:
    """Meanings in a docstring's `Attributes:` section, continuation lines joined."""
    section = docstring.partition("Attributes:")[2]
    entries = re.split(r"\n    (?=\w+:)", section)
    pairs = (entry.partition(":") for entry in entries if ":" in entry)
    return {name.strip(): " ".join(meaning.split()) for name, _, meaning in pairs}
