"""The family graph's questions, memory and ranks against its files, read again by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from family_example import RELATIONS, task_in, write_family

from memnets.contracts import Batch
from memnets.tasks.base import DataError, NoOracleError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return write_family(tmp_path)


def told(root, *names):
    return [
        tuple(line.split()) for name in names for line in (root / "family" / f"{name}.txt").read_text().splitlines()
    ]


def named(task, batch):
    """Questions as edges of the files, in their order; a question backwards says so."""
    entities, relations = task.memory.entities, len(RELATIONS)
    for node, word, target in zip(batch.inputs.node, batch.inputs.words[:, 0], batch.targets, strict=True):
        backwards, relation = divmod(int(word) - 1, relations)
        ends = (entities[node], entities[target])[:: -1 if backwards else 1]
        assert task.vocabulary[word] == RELATIONS[relation] + " of" * backwards
        yield (ends[0], RELATIONS[relation], ends[1]), bool(backwards)


def graph_of(task, batch, row):
    """Edges told to a row by name, of which half must be the others backwards."""
    entities, relations = task.memory.entities, len(RELATIONS)
    rows = zip(*(part[row][batch.inputs.edges.mask[row]].tolist() for part in batch.inputs.edges[:3]), strict=True)
    forwards, backwards = set(), set()
    for source, relation, target in rows:
        turned, kind = divmod(relation, relations)
        if turned:
            backwards.add((entities[target], RELATIONS[kind], entities[source]))
        else:
            forwards.add((entities[source], RELATIONS[kind], entities[target]))
    assert forwards == backwards
    return forwards


class TestQuestions:
    @pytest.mark.parametrize(("split", "file"), [("validation", "valid"), ("test", "test")])
    def test_every_edge_of_the_file_both_ways_with_facts_and_training_edges_to_read(self, root, split, file):
        task, asked = task_in(root), []
        for index in range(task.num_batches(split, 4)):
            batch = task.batch(split, index, 4, 0)
            asked += named(task, batch)
            assert graph_of(task, batch, 0) == graph_of(task, batch, len(batch.targets) - 1)
            assert graph_of(task, batch, 0) == set(told(root, "facts", "train"))
        assert asked == [(edge, backwards) for edge in told(root, file) for backwards in (False, True)]
        with pytest.raises(IndexError, match="none number"):
            task.batch(split, task.num_batches(split, 4), 4, 0)

    def test_training_asks_everything_once_an_epoch_and_hides_the_batch_s_own_edges(self, root):
        task, asked = task_in(root), []
        for index in range(task.num_batches("train", 4)):
            batch = task.batch("train", index, 4, 0)
            own = list(named(task, batch))
            hidden = {edge for edge, _ in own}
            assert graph_of(task, batch, 3) == set(told(root, "facts", "train")) - hidden
            asked += own
        assert len(set(asked)) == len(asked)
        assert len(asked) >= 2 * len(told(root, "train")) - 3
        assert {edge for edge, _ in asked} <= set(told(root, "train"))


class TestEntityDisjoint:
    def test_training_neither_asks_nor_tells_what_the_test_is_about(self, root):
        task, plain, asked = task_in(root, "entity_disjoint"), task_in(root), {}
        for split in ("train", "validation", "test"):
            batches = [task.batch(split, index, 2, 0) for index in range(task.num_batches(split, 2))]
            asked[split] = {task.memory.entities[node] for batch in batches for node in batch.inputs.node}
            for batch, (edge, _) in ((b, e) for b in batches for e in named(task, b)):
                told_now = graph_of(task, batch, 0)
                if split == "train":
                    asked[split] |= {edge[0], edge[2]}
                    told_in_training = told_now
                    assert edge not in told_now
                else:
                    assert told_now == set(told(root, "facts", "train"))
        assert asked["test"]
        assert asked["validation"]
        assert not asked["test"] & asked["validation"]
        training = asked["train"] | {end for edge in told_in_training for end in edge[::2]}
        assert not training & (asked["test"] | asked["validation"])
        assert 0 < len(task._questions["test"]) < len(plain._questions["test"])

    def test_the_same_whenever_it_is_made(self, root):
        one, two = (task_in(root, "entity_disjoint").batch("test", 0, 4, seed) for seed in (0, 1))
        assert one.inputs.node.equal(two.inputs.node)

    def test_no_other_split(self, root):
        with pytest.raises(ValueError, match="split must be edges or entity_disjoint, not 'entities'"):
            task_in(root, "entities")


class TestRanks:
    def test_equal_a_loop(self, root):
        task = task_in(root)
        known = set(told(root, "facts", "train", "valid", "test"))
        batch = task.batch("test", 0, 12, 0)
        outputs = torch.randint(5, (12, task.spec.output_size), generator=torch.Generator().manual_seed(0)).double()
        expected, entities = [], task.memory.entities
        for row, ((source, relation, target), backwards) in zip(outputs.tolist(), named(task, batch), strict=True):
            own, rank = row[entities.index(source if backwards else target)], 1.0
            for name, score in zip(entities, row, strict=True):
                if ((name, relation, target) if backwards else (source, relation, name)) not in known:
                    rank += (score > own) + (score == own) / 2
            expected.append(rank)
        found = task.metrics(outputs, batch)
        assert list(found) == list(task.metric_names)
        assert found["reciprocal_rank"].total == pytest.approx(sum(1 / rank for rank in expected))
        assert found["hits_1"].total == sum(rank <= 1 for rank in expected)
        assert found["hits_10"].total == sum(rank <= 10 for rank in expected)
        assert len(set(expected)) > 1

    def test_the_right_answer_is_first_and_a_constant_is_not(self, root):
        task = task_in(root)
        batch = task.batch("test", 0, 12, 0)
        right = torch.nn.functional.one_hot(batch.targets, task.spec.output_size).double()
        assert task.metrics(right, batch)["reciprocal_rank"] == (12, 12)
        assert task.metrics(torch.zeros_like(right), batch)["reciprocal_rank"].total < 2

    def test_what_is_no_number_is_last(self, root):
        task = task_in(root)
        batch = task.batch("test", 0, 12, 0)
        found = task.metrics(torch.full((12, task.spec.output_size), torch.nan), batch)
        assert found["reciprocal_rank"].total < 3
        assert found["hits_1"].total == 0

    def test_only_places_of_the_mask_count(self, root):
        task = task_in(root)
        batch = task.batch("test", 0, 12, 0)
        half = replace(batch, mask=torch.arange(12) < 6)
        right = torch.nn.functional.one_hot(batch.targets, task.spec.output_size).double()
        wrong = torch.where(half.mask[:, None], right, -right)
        assert task.metrics(wrong, half)["hits_1"] == (6, 6)
        assert task.loss(20 * wrong, half) < 0.01


def test_nobody_solves_it_by_hand(root):
    with pytest.raises(NoOracleError, match="no oracle"):
        task_in(root).oracle(Batch(None, torch.zeros(1), torch.ones(1, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train", "0\tmother\t0.0\n0\tmother\n", r"train.txt:2: not a known source, relation and target: '0\\tmother'"),
        ("facts", "0\tcousin\t0.0\n", "facts.txt:1: not a known"),
        ("valid", "0\tmother\tnobody\n", "valid.txt:1: not a known"),
        ("test", "", "test.txt: no edge"),
        ("test", "0\tmother\t0.0\n", "an edge is told twice"),
    ],
)
def test_malformed_files(tmp_path, monkeypatch, file, text, message):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    with pytest.raises(DataError, match=message):
        task_in(write_family(tmp_path, **{file: text})).batch("test", 0, 2, 0)


def test_other_files_than_the_published(root):
    with pytest.raises(DataError, match="differs from the published"):
        replace(task_in(root), verify_checksum=True).spec  # noqa: B018
