"""Runs of people_qa: replicas are the runs alone, edits are tested, and what can't work is refused before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiers import but_for_long
from torch.testing import assert_close

from memnets.check import ConfigError
from memnets.config import build, check, compose, with_defaults
from memnets.identity import run_folder, run_folders
from memnets.launch import Alike, train
from memnets.training.checkpoint import latest, load

SMALL = (
    "experiment=people_qa",
    "task.num_people=30",
    "task.num_validation_people=4",
    "task.num_test_people=10",
    "task.encoder.size=8",
    "trainer.max_steps=4",
    "trainer.schedule.total_steps=4",
    "trainer.schedule.warmup_steps=1",
    "trainer.batch_size=8",
    "trainer.eval_every=2",
    "trainer.log_every=1",
    "logger.progress=none",
    "runtime.pictures=false",
)


def small_config(*overrides: str) -> dict:
    config = compose([*SMALL, *overrides]).config
    check(config)
    return with_defaults(config)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = latest(folder / "checkpoints")
    assert newest is not None
    return load(newest, torch.device("cpu")).tensors["model"]


class TestRuns:
    @pytest.mark.parametrize(
        "model",
        but_for_long(["pointer", "cross_attention", "concatenate", "knn", "constant"], "cross_attention".__eq__),
    )
    def test_replicas_are_the_runs_alone(self, tmp_path, model):
        given = (f"model=reader_{model}", f"runtime.runs_dir={tmp_path}")
        together = small_config(*given, "trainer.num_replicas=2")
        alone = small_config(*given, f"runtime.runs_dir={tmp_path / 'alone'}", "seed=1")
        assert train(together) == train(alone) == 0
        first, second = run_folders(together)
        assert_close(weights(second), weights(run_folder(alone)), rtol=1e-4, atol=1e-5)
        assert not all(one.equal(weights(second)[name]) for name, one in weights(first).items())

    def test_tests_what_was_edited_and_what_was_kept(self, tmp_path):
        config = small_config(f"runtime.runs_dir={tmp_path}")
        assert train(config) == 0
        tested = {row["split"]: row for row in rows(run_folder(config))}
        assert list(tested) == ["train", "validation", "test", "edited", "kept"]
        for split in ("validation", "test", "edited", "kept"):
            assert {"accuracy", "recall", "attention_on_gold"} <= tested[split].keys()
            assert 0 < tested[split]["recall"] <= 1
        references = json.loads((run_folder(config) / "references.json").read_text())
        assert references["oracle"]["test/accuracy"] == 1
        assert references["chance"]["test/accuracy"] == pytest.approx(1 / 108)

    def test_runs_that_differ_in_their_seed_share_the_task(self):
        build_alike = Alike()
        first, second = (build_alike(small_config(f"seed={seed}")) for seed in (0, 1))
        assert first.task is second.task
        assert first.model is not second.model


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "told"),
        [
            (["task.memory={_target_: memnets.retrieval.vector_memory.VectorMemory, _partial_: true}"], "gives none"),
            (["task.num_people=14"], "leaves nobody to train on"),
            (["model=lstm"], "reads tokens or vectors, but the task gives question"),
        ],
    )
    def test_before_anything_runs(self, overrides, told):
        with pytest.raises(ConfigError, match=told):
            build(small_config(*overrides))

    def test_no_folder_of_the_machine_is_in_the_configuration(self):
        config = with_defaults(compose(["experiment=people_qa", "task/encoder=minilm"]).config)
        assert config["task"]["encoder"]["folder"] is None
        assert config["task"]["encoder"]["encoder"]["name"] == "sentence-transformers/all-MiniLM-L6-v2"
