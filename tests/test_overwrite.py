"""Overwrite: what its sequences must be, told by a loop over every row. The contract is in test_tasks.py."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from memnets.tasks.overwrite import Overwrite
from memnets.tasks.recall import LOCAL, REMOTE
from memnets.tasks.token_sequences import as_scores

TASK = Overwrite()
SHAPES = [
    TASK,
    Overwrite(num_segments=7, segment_length=14, gap=3, num_writes=3, keys_per_sequence=5, local_queries=1,
              remote_queries=3),
    Overwrite(num_segments=2, segment_length=3, num_keys=1, num_values=1, num_fillers=1, gap=1, num_writes=1,
              keys_per_sequence=1, local_queries=0, remote_queries=1),
]  # fmt: skip


def pieces(task, row):
    return [row[first : first + task.segment_length] for first in range(0, len(row), task.segment_length)]


def bindings(task, row):
    """Values of each key, with their segments, in order of time."""
    found = {}
    for number, segment in enumerate(pieces(task, row)):
        for place in range(0, 2 * task.keys_per_sequence, 2):
            key, value = segment[place : place + 2]
            assert (key < task.num_keys) == (value < task.num_keys + task.num_values), "pairs are whole"
            if key < task.num_keys:
                assert value >= task.num_keys
                found.setdefault(key, []).append((number, value - task.num_keys))
    return found


def lists(batch):
    return zip(*(part.tolist() for part in (batch.inputs, batch.targets, batch.groups)), strict=True)


@pytest.mark.parametrize("task", SHAPES)
class TestSequences:
    def test_every_row_is_what_the_docstring_draws(self, task):
        lead = 2 * task.keys_per_sequence
        for inputs, targets, groups in lists(task.batch("train", 0, 40, seed=1)):
            bound = bindings(task, inputs)
            assert len(bound) == task.keys_per_sequence
            for written in bound.values():
                segments, values = zip(*written, strict=True)
                assert len(set(segments)) == len(set(values)) == task.num_writes == len(written)
                assert max(segments) < task.num_segments - task.gap
            for step, (token, target, group) in enumerate(zip(inputs, targets, groups, strict=True)):
                number, place = divmod(step, task.segment_length)
                if place < lead or token >= task.num_keys:
                    assert group == target == 0
                    continue
                if group == LOCAL:
                    assert (number, target) in bound[token]
                else:
                    assert group == REMOTE
                    last, value = bound[token][-1]
                    assert target == value
                    assert last + task.gap <= number
            for number, labels in enumerate(pieces(task, groups)):
                here = any(number == segment for written in bound.values() for segment, _ in written)
                due = any(written[-1][0] + task.gap <= number for written in bound.values())
                assert labels.count(LOCAL) == task.local_queries * here
                assert labels.count(REMOTE) == task.remote_queries * due

    def test_remote_distance_is_the_least(self, task):
        distances = []
        for inputs, _, groups in lists(task.batch("train", 0, 400, seed=0)):
            last = {}
            for step, token in enumerate(inputs):
                if step % task.segment_length < 2 * task.keys_per_sequence:
                    last[token] = step + 1
                elif groups[step] == REMOTE:
                    distances.append(step - last[token])
        assert min(distances) >= task.remote_distance

    def test_a_time_blind_memory_is_right_once_in_num_writes(self, task):
        """It finds all values of a key, and takes any; what is wrong at remote queries is stale."""
        batch = task.batch("test", 0, 300, seed=0)
        random = torch.Generator().manual_seed(0)
        answers = batch.targets.clone()
        for row, (inputs, _, groups) in enumerate(lists(batch)):
            bound = bindings(task, inputs)
            for step, group in enumerate(groups):
                if group == REMOTE:
                    choice = int(torch.randint(task.num_writes, (), generator=random))
                    answers[row, step] = bound[inputs[step]][choice][1]
        found = task.metrics(as_scores(answers, task.num_values), batch)
        right, stale = (found[name].total / found[name].count for name in ("remote_accuracy", "stale_error"))
        share = 1 / task.num_writes
        assert abs(right - share) <= 4 * (share * (1 - share) / found["stale_error"].count) ** 0.5
        assert right + stale == 1
        assert found["stale_error"].count == (batch.groups == REMOTE).sum()


class TestDraws:
    def test_everything_is_drawn_equally_often(self):
        """Segments of the writes, keys asked for, places of pairs and queries: within four standard deviations."""
        batch = TASK.batch("train", 0, 4000, seed=0)
        written, slots, asked = Counter(), Counter(), Counter()
        for inputs, _, groups in lists(batch):
            bound = bindings(TASK, inputs)
            for values in bound.values():
                written[tuple(number for number, _ in values)] += 1
            slots.update(place for place in range(0, 8, 2) if inputs[place] < TASK.num_keys)
            firsts = sorted(bound)
            asked.update(firsts.index(inputs[64 + i]) for i in range(16) if groups[64 + i] == REMOTE)
        steps = Counter((batch.groups[:, 64:] == REMOTE).nonzero()[:, 1].tolist())
        assert set(written) == set(itertools.combinations(range(3), 2))
        assert set(steps) == set(range(8, 16))
        for counted, choices in ((written, 3), (slots, 4), (asked, 4), (steps, 8)):
            expected = sum(counted.values()) / choices
            assert len(counted) == choices
            assert all(abs(count - expected) < 4 * expected**0.5 for count in counted.values())

    def test_places_of_a_key_and_queries_of_a_segment_are_independent(self):
        """One chance in four each that a key keeps its place, and that both remote queries are for one key."""
        kept, same = [], []
        for inputs, _, groups in lists(TASK.batch("train", 0, 2000, seed=0)):
            for key in bindings(TASK, inputs):
                first, second = (step % 16 for step in range(80) if step % 16 < 8 and inputs[step] == key)
                kept.append(first == second)
            one, two = (inputs[64 + i] for i in range(16) if groups[64 + i] == REMOTE)
            same.append(one == two)
        for found in (kept, same):
            assert abs(sum(found) / len(found) - 1 / 4) < 4 * (3 / 16 / len(found)) ** 0.5


class TestMetrics:
    def test_an_older_value_is_stale_and_any_other_is_only_wrong(self):
        batch = TASK.batch("test", 0, 60, seed=0)
        older, other = batch.targets.clone(), batch.targets.clone()
        for row, (inputs, targets, groups) in enumerate(lists(batch)):
            bound = bindings(TASK, inputs)
            for step, group in enumerate(groups):
                if group == REMOTE:
                    older[row, step] = bound[inputs[step]][0][1]
                    known = {value for _, value in bound[inputs[step]]}
                    other[row, step] = next(value for value in range(32) if value not in known | {targets[step]})
        for answers, stale in ((older, 1), (other, 0), (batch.targets, 0)):
            found = TASK.metrics(as_scores(answers, 32), batch)
            scores = {name: float(total / count) for name, (total, count) in found.items()}
            assert scores["stale_error"] == stale
            assert scores["local_accuracy"] == 1
            assert scores["remote_accuracy"] == float(answers is batch.targets)

    def test_names(self):
        assert Overwrite.metric_names == ("accuracy", "local_accuracy", "remote_accuracy", "stale_error")


class TestStream:
    STREAM = Overwrite(stream=True)

    def test_segments_in_turn_are_the_sequences(self):
        parts = [self.STREAM.batch("train", index, 5, seed=2) for index in range(5, 10)]
        whole = TASK.batch("train", 1, 5, seed=2)
        for name in ("inputs", "targets", "mask", "groups"):
            assert torch.cat([getattr(part, name) for part in parts], 1).equal(getattr(whole, name))
        assert [part.starts.all().item() for part in parts] == [True, False, False, False, False]
        assert [part.starts.any().item() for part in parts] == [True, False, False, False, False]

    def test_a_segment_tells_nothing_of_what_is_stale(self):
        for index in range(5):
            batch = self.STREAM.batch("train", index, 20, seed=0)
            outputs = self.STREAM.oracle(batch)
            assert self.STREAM.metrics(outputs, batch)["stale_error"].count == 0
            assert (outputs.argmax(-1) == batch.targets)[batch.groups == LOCAL].all()


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"num_segments": 3}, "num_segments=3 is too few: 2 writes .* gap=2 before a query, take 4"),
        ({"num_keys": 3}, "num_keys=3 is too few for keys_per_sequence=4"),
        ({"num_values": 1}, "num_values=1 is too few: the 2 values"),
        ({"segment_length": 11}, "segment_length=11 holds 4 pairs .* and 4 queries only from 12 on"),
        ({"keys_per_sequence": 0}, "keys_per_sequence must be at least 1, not 0"),
        ({"num_writes": 0}, "num_writes must be at least 1, not 0"),
        ({"gap": 0}, "gap must be at least 1, not 0"),
        ({"num_fillers": 0}, "num_fillers must be at least 1, not 0"),
        ({"remote_queries": 0}, "remote_queries must be at least 1, not 0"),
        ({"local_queries": -1}, "local_queries must be at least 0, not -1"),
    ],
)
def test_refuses_what_cannot_be(sizes, complaint):
    with pytest.raises(ValueError, match=complaint):
        Overwrite(**sizes)
