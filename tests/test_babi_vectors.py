"""bAbI through an external memory: which rows a question may read, when they were told, and that they answer it."""

from __future__ import annotations

import pytest
import torch
from babi_example import task_in, write_babi
from torch.testing import assert_close

from memnets.retrieval.encoder import HashedEncoder
from memnets.tasks.babi_vectors import BabiVectors, waves
from memnets.tasks.base import SPLITS


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return BabiVectors(data_root=str(write_babi(tmp_path)), verify_checksum=False, age_size=6)


def test_a_story_is_the_rows_of_its_facts(task):
    inputs = task.batch("test", 0, 3, 0).inputs
    assert inputs.block.mask.tolist() == [[True, False, False], [True, True, True], [True, True, True]]
    told = [task.memory.entry(row).text for row in inputs.block.rows[1].tolist()]
    assert told == ["daniel went to the hallway", "john moved to the garden", "daniel went to the garden"]
    encoder = HashedEncoder()
    assert_close(inputs.block.vectors[1, :, :64], encoder.encode(told).vectors)
    assert_close(inputs.query[1, :64], encoder.encode(["where is daniel"]).vectors[0])


def test_facts_tell_how_long_ago_they_were_told(task):
    inputs = task.batch("test", 0, 3, 0).inputs
    assert_close(inputs.block.vectors[1, :, 64:], waves(torch.tensor([2, 1, 0]), 6))
    assert_close(inputs.block.vectors[0, 0, 64:], waves(torch.tensor(0), 6))  # the newest, whatever padding follows
    assert not inputs.block.vectors[0, 1:].any(), "padding holds nothing"
    assert not inputs.query[:, 64:].any()
    ages = waves(torch.arange(50), 6)
    assert len(ages.unique(dim=0)) == 50


def test_a_fact_told_twice_is_one_entry(task):
    assert len(task.memory) == len({task.memory.entry(row).text for row in range(task.memory.num_rows)})


@pytest.mark.parametrize("split", SPLITS)
def test_all_but_the_inputs_is_what_babi_gives(task, tmp_path, split):
    plain, batch = (one.batch(split, 0, 2, 0) for one in (task_in(tmp_path), task))
    assert batch.targets.equal(plain.targets)
    assert batch.supports.equal(plain.supports)
    right = task.metrics(task.oracle(batch), batch)["accuracy"]
    assert right.total == right.count, "it can be answered from the inputs"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"age_size": 3}, "must be even and not negative, not 3"),
        ({"view": "tokens"}, "leave view at story, not tokens"),
    ],
)
def test_refuses_what_it_cannot_do(fields, message):
    with pytest.raises(ValueError, match=message):
        BabiVectors(**fields)
