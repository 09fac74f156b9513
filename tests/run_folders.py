"""Run folders as the trainer leaves them, and lines of results, small and with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from memnets.analysis.groups import Group, group_runs
from memnets.analysis.records import Record
from memnets.analysis.runs import read_run

ERRORS = {0: 0.5, 1: 0.0, 2: 2.25}
"""Bit errors of each seed's run when it ends."""

DOCUMENT = "# Title\n\n<!-- table: t -->\nold\n<!-- end table -->\n\nAfter.\n"
"""A document with a table."""

ATTENTION = [
    {
        "story": ["Mary went to the hall", "John went to the office"],
        "query": "Where is John",
        "answer": "office",
        "prediction": "hall",
        "supports": [1],
        "attention": [[0.9, 0.1], [0.2, 0.8], [0.05, 0.95]],
    },
    {
        "story": ["Mary went to the hall"],
        "query": "Where is Mary",
        "answer": "hall",
        "prediction": "hall",
        "supports": None,
        "attention": [[1.0], [1.0], [1.0]],
    },
]
"""What a memory network's run leaves in `attention.json`."""


def write_run(root: Path, seed: int = 0, name: str = "ntm_copy", code: str = "", **changes) -> Path:
    """Write a run folder as the trainer does; `changes` replace entries of config, status and environment."""
    folder = root / f"{name}-{code or f'{seed:010x}'}"
    folder.mkdir(parents=True)
    config = {
        "name": name,
        "seed": seed,
        "model": {"_target_": "memnets.models.ntm.NTM", "memory_size": 128},
        "task": {"_target_": "memnets.tasks.copy.Copy"},
        "runtime": {"runs_dir": str(root)},
        "logger": {},
    }
    status = {"status": "done", "step": 400, "sequences": 6400, "solved_at_sequences": 3200, "seconds": 10.0 + seed}
    status |= {"solved_at_step": 200, "started": "2025-01-01T10:00:00+00:00", "ended": "2025-01-02T10:00:00+00:00"}
    environment = {"command": f"python scripts/train.py experiment={name} seed={seed}", "commit": "abcdef0123456789"}
    environment |= {"dirty": False, "device": "cpu", "cpu": "A Fine Processor"}
    for content in (config, status, environment):
        content |= {key: value for key, value in changes.items() if key in content or key in ("error", "overrides")}
    error = ERRORS.get(seed, 1.0)
    rows = []
    for step in (100, 200, 300, 400):
        measured = {
            "step": step,
            "sequences": step * 16,
            "loss": 3.0 ** -(step // 100),
            "bit_errors": 40.0 / step + error,
        }
        rows.append({**measured, "split": "train", "learning_rate": 1e-3, "gradient_norm": 2.0})
        rows.append({**measured, "split": "validation"})
    rows += [{"step": 400, "sequences": 6400, "split": split, "bit_errors": error} for split in ("test", "length_40")]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def one_group(*folders: Path) -> Group:
    """Return the one group that the runs in these folders make."""
    (group,) = group_runs([read_run(folder) for folder in folders])
    return group


def line(experiment: str = "ntm_copy", metric: str = "test/bit_errors", mean: float = 0.5, **changes) -> Record:
    """Return a line of results/NAME.csv."""
    values = {
        "seeds": 3,
        "std": 0.25,
        "median": 0.5,
        "lower_quartile": None,
        "upper_quartile": None,
        "best": 0.0,
        "selected": None,
        "published": "",
        "command": "python scripts/train.py -m x",
    }
    values |= {"commit": "abcdef0", "date": "2025-01-02", "device": "cpu (A, B)"}
    return Record(experiment=experiment, metric=metric, mean=mean, **(values | changes))
