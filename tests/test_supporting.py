"""How many of the true supporting facts attention finds: against counts by hand, and on its way into evaluations."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from babi_example import task_in, write_babi
from tiny import ALONE, ROOT

from memnets.contracts import Batch, Story
from memnets.models.base import SequenceModel
from memnets.models.memn2n import MemN2N
from memnets.tasks.babi import Babi
from memnets.training.evaluation import evaluate
from memnets.training.supporting import pointed_at, supporting_facts

TELLS = ("supporting_recall", "supporting_complete")


class Pointing(SequenceModel):
    """Attends as it was told to."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.tensor(weights)

    def initial_state(self, batch_size):
        return ()

    def forward(self, inputs, state=None):
        return torch.zeros(len(inputs.query), 5), ()

    def attention(self, inputs):
        return self.weights


def asked(told, supports):
    """A batch of questions about stories of so many sentences of one word each."""
    sentences = len(supports[0])
    story = (torch.arange(sentences) < torch.tensor(told)[:, None]).long()[:, :, None]
    zeros = torch.zeros(len(told), dtype=torch.long)
    return Batch(Story(story, story[:, 0]), zeros, zeros == 0, supports=torch.tensor(supports).bool())


def shares(weights, told, supports):
    found = supporting_facts(Pointing(weights), asked(told, supports))
    return [(ratio.total.item(), ratio.count.item()) for ratio in found.values()]


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return task_in(write_babi(tmp_path))


def test_facts_are_found_that_some_hop_points_at():
    weights = [[[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], [[0.2, 0.2, 0.6]] * 2]
    supports = [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert shares(weights, [3, 3, 3], supports) == [(3, 4), (1, 2)]


def test_linear_weights_below_zero_do_not_point_at_empty_slots():
    assert shares([[[-3.0, -1.0, 0.0]]], [2], [[0, 1, 0]]) == [(1, 1), (1, 1)]


def test_an_empty_story_points_nowhere_and_equal_weights_at_the_oldest():
    told = torch.tensor([[False, False], [True, True]])
    assert pointed_at(torch.zeros(2, 1, 2), told).tolist() == [[False, False], [True, False]]


def test_models_without_attention_and_tasks_without_facts_tell_nothing(task):
    batch = task.batch("test", 0, 3, 0)
    assert supporting_facts(MemN2N(task.spec), Batch(batch.inputs, batch.targets, batch.mask)) == {}
    silent = Pointing([0.0])
    silent.weights = None
    assert supporting_facts(silent, batch) == {}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_evaluation_reports_them_beside_the_tasks_metrics(task, batch_size):
    model = MemN2N(task.spec)
    rows = evaluate(model, task, "test", batch_size, ALONE)
    assert list(rows) == ["loss", *Babi.metric_names, *TELLS]
    whole = supporting_facts(model, task.batch("test", 0, 3, 0))
    for name in TELLS:
        assert rows[name] == pytest.approx((whole[name].total / whole[name].count).item())


@pytest.mark.long
def test_processes_that_share_the_weights_tell_what_one_does(tmp_path):
    words = ["experiment=memn2n_babi", "trainer.max_steps=1", "trainer.batch_size=1", "runtime.pictures=false"]
    words += [f"task.data_root={write_babi(tmp_path)}", "task.verify_checksum=false", "logger.progress=none"]
    words += ["runtime.parallel=fsdp", "runtime.device=cpu", f"runtime.runs_dir={tmp_path / 'runs'}"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {name: value for name, value in os.environ.items() if name != "MEMNETS_DATA"}
    done = subprocess.run(
        [*start, ROOT / "scripts" / "train.py", *words], capture_output=True, text=True, timeout=180, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (metrics,) = (tmp_path / "runs").glob("*/metrics.jsonl")
    tested = json.loads(metrics.read_text().splitlines()[-1])
    assert {tested[name] * 3 for name in TELLS} <= {0, 1, 2, 3}
