"""A reader small enough to export in a blink: a pointer that copies from what is most relevant, hardly trained."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from memnets.config import check, compose, with_defaults
from memnets.identity import run_folder
from memnets.launch import train
from memnets.serving.export import export
from memnets.serving.folder import open_folder
from memnets.serving.memory_reader import MemoryReader

SMALL = (
    "experiment=people_qa",
    "task.num_people=12",
    "task.num_validation_people=2",
    "task.num_test_people=4",
    "trainer.max_steps=2",
    "trainer.schedule.total_steps=2",
    "trainer.schedule.warmup_steps=1",
    "trainer.batch_size=8",
    "trainer.eval_every=2",
    "logger.progress=none",
    "runtime.pictures=false",
)
QUESTION, FACT = "where does ada lovelace live?", "ada lovelace lives in beijing."


def small_run(folder: Path, *overrides: str) -> Path:
    """The folder of a small run, trained."""
    config = compose([*SMALL, f"runtime.runs_dir={folder}", *overrides]).config
    check(config)
    config = with_defaults(config)
    assert train(config) == 0
    return run_folder(config)


@cache
def _kept() -> tuple[TemporaryDirectory, Path, Path]:
    kept = TemporaryDirectory()
    run = small_run(Path(kept.name) / "runs")
    export(run, Path(kept.name) / "exported")
    return kept, run, Path(kept.name) / "exported"


def the_run() -> Path:
    """The folder of one small run; not to be changed."""
    return _kept()[1]


def exported(folder: Path) -> Path:
    """An exported reader in a folder of one's own."""
    return shutil.copytree(_kept()[2], folder / "exported")


def opened(folder: Path) -> MemoryReader:
    """The reader of an exported folder of one's own."""
    return open_folder(exported(folder))
