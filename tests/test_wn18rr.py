"""WN18RR's archive, read; what it shares with the family graph is tested there."""

from __future__ import annotations

import pytest
from family_example import RELATIONS, edges
from wn18rr_example import write_wn18rr

from memnets.retrieval.graph_memory import Edge
from memnets.tasks.base import DataError
from memnets.tasks.wn18rr import WN18RR


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


def task_in(root):
    return WN18RR(data_root=str(root), verify_checksum=False)


def test_all_training_edges_are_told_and_the_others_asked(tmp_path):
    task = task_in(write_wn18rr(tmp_path))
    told = list(edges())
    assert {*task.memory.relations} == {*RELATIONS}
    assert [Edge(*edge) in task.memory for edge in told] == [False, False] + [True] * (len(told) - 2)
    for split, (source, relation, target) in (("validation", told[0]), ("test", told[1])):
        batch = task.batch(split, 0, 9, 0)
        named = [
            (task.memory.entities[i], task.vocabulary[w]) for i, w in zip(*map(list, batch.inputs[:2]), strict=True)
        ]
        assert named == [(source, relation), (target, f"{relation} of")]
        assert [task.memory.entities[i] for i in batch.targets] == [target, source]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": "0\tmother\n"}, r"train.txt:1: not a known source, relation and target: '0\\tmother'"),
        ({"valid": ""}, "valid.txt: no edge"),
        ({"test": "0\tmother\t0.1\n"}, "an edge is told twice"),
        ({"test": None}, "no archive of train.txt, valid.txt and test.txt: .*test.txt.*Fetch it again"),
    ],
)
def test_malformed_files(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        task_in(write_wn18rr(tmp_path, **changed)).spec  # noqa: B018


def test_a_damaged_archive_and_none(tmp_path):
    with pytest.raises(DataError, match="missing data"):
        task_in(tmp_path).spec  # noqa: B018
    path = write_wn18rr(tmp_path) / "wn18rr" / "WN18RR.tar.gz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="no archive of"):
            task_in(tmp_path).spec  # noqa: B018
    with pytest.raises(DataError, match="differs from the published"):
        WN18RR(data_root=str(tmp_path)).spec  # noqa: B018
