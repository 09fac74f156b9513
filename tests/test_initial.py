"""Training that begins with the weights of another run, found by its name and seed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import tiny_config

from memnets.identity import identity, run_folder
from memnets.launch import train
from memnets.training.checkpoint import CheckpointError
from memnets.training.initial import initial_checkpoint
from memnets.training.run import DONE


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs named `first` of seeds 0 and 1, and `first-or-not` of seed 0."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("first", 0), ("first", 1), ("first-or-not", 0)):
        assert train(config_of(folder, f"name={name}", f"seed={seed}")) == DONE
    return folder


def config_of(runs: Path, *overrides: str):
    return tiny_config(f"runtime.runs_dir={runs}", "trainer.max_steps=1", "trainer.eval_every=1", *overrides)


class TestInitialCheckpoint:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_name_is_the_run_of_the_same_seed(self, runs, seed):
        own = run_folder(config_of(runs, "name=first", f"seed={seed}"))
        assert initial_checkpoint("first", runs, seed).parent.parent == own
        assert initial_checkpoint(str(own), runs, 5).parent.parent == own, "a path is itself, whatever the seed"

    def test_none_and_several_are_refused(self, runs, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"no finished run of that name with seed=7 .*experiment=first seed=7"
        ):
            initial_checkpoint("first", runs, 7)
        shutil.copytree(runs, tmp_path / "runs")
        shutil.copytree(run_folder(config_of(runs, "name=first")), tmp_path / "runs/first-0123456789")
        with pytest.raises(CheckpointError, match=r"2 finished runs .* name one: .*first-0123456789"):
            initial_checkpoint("first", tmp_path / "runs", 0)

    def test_what_it_begins_with_is_part_of_what_a_run_is(self, runs, tmp_path):
        named, other = config_of(runs, "trainer.initial_weights=first"), config_of(runs)
        assert identity(named) != identity(other)
        assert identity(named) != identity(config_of(tmp_path, "trainer.initial_weights=first")), "nothing there"
        assert train(named | {"name": "second"}) == DONE
