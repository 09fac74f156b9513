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
    Overwrite(num_segments=12, segment_length=14, gap=3, num_writes=3, keys_per_sequence=5, local_queries=1,
              remote_queries=3, num_keys=65),
    Overwrite(num_segments=3, segment_length=3, num_keys=4, num_values=1, num_fillers=1, gap=1, num_writes=1,
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
            assert key < task.num_keys <= value < task.num_keys + task.num_values
            found.setdefault(key, []).append((number, value - task.num_keys))
    return found


def written(task, row):
    """The same of the keys that are asked for remotely; where they are written once, they aren't told from others."""
    return {key: values for key, values in bindings(task, row).items() if len(values) == task.num_writes}


def lists(batch):
    return zip(*(part.tolist() for part in (batch.inputs, batch.targets, batch.groups)), strict=True)


@pytest.mark.parametrize("task", SHAPES)
class TestSequences:
    def test_every_row_is_what_the_docstring_draws(self, task):
        lead = 2 * task.keys_per_sequence
        for inputs, targets, groups in lists(task.batch("train", 0, 40, seed=1)):
            bound, keys = bindings(task, inputs), written(task, inputs)
            if task.num_writes > 1:
                assert len(keys) == task.keys_per_sequence
                assert len(bound) == task.keys_per_sequence + sum(len(values) == 1 for values in bound.values())
                for pairs in keys.values():
                    segments, values = zip(*pairs, strict=True)
                    assert len(set(values)) == task.num_writes
                    assert min(segments) >= 1
                    assert max(segments) < task.num_segments - task.gap
                    assert all(late - early >= task.gap for early, late in itertools.pairwise(segments))
            for step, (token, target, group) in enumerate(zip(inputs, targets, groups, strict=True)):
                number, place = divmod(step, task.segment_length)
                if place < lead or token >= task.num_keys:
                    assert group == target == 0
                    continue
                if group == LOCAL:
                    assert (number, target) in bound[token]
                else:
                    assert group == REMOTE
                    last, value = keys[token][-1]
                    assert target == value
                    assert last + task.gap <= number
            for number, labels in enumerate(pieces(task, groups)):
                assert labels.count(LOCAL) == task.local_queries
                if task.num_writes > 1:
                    due = any(pairs[-1][0] + task.gap <= number for pairs in keys.values())
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
        """Segments of the writes, places of pairs, keys asked for and queries: within four standard deviations."""
        batch = TASK.batch("train", 0, 4000, seed=0)
        when, slots, asked = Counter(), Counter(), Counter()
        for inputs, _, groups in lists(batch):
            keys = written(TASK, inputs)
            when.update(tuple(number for number, _ in values) for values in keys.values())
            slots.update(16 <= inputs.index(key) < 48 and inputs.index(key) % 16 for key in keys)
            firsts = sorted(keys)
            asked.update(firsts.index(inputs[96 + i]) for i in range(16) if groups[96 + i] == REMOTE)
        steps = Counter((batch.groups[:, 96:] == REMOTE).nonzero()[:, 1].tolist())
        assert set(when) == {(1, 3), (1, 4), (2, 4)}
        assert set(steps) == set(range(4, 16))
        for counted, choices in ((when, 3), (slots, 2), (asked, 2), (steps, 12)):
            expected = sum(counted.values()) / choices
            assert len(counted) == choices
            assert all(abs(count - expected) < 4 * expected**0.5 for count in counted.values())

    def test_places_of_a_key_and_queries_of_a_segment_are_independent(self):
        """One chance in two each that a key keeps its place, and that both remote queries are for one key."""
        kept, same = [], []
        for inputs, _, groups in lists(TASK.batch("train", 0, 2000, seed=0)):
            for key in written(TASK, inputs):
                first, second = (step % 16 for step in range(112) if step % 16 < 4 and inputs[step] == key)
                kept.append(first == second)
            one, two = (inputs[96 + i] for i in range(16) if groups[96 + i] == REMOTE)
            same.append(one == two)
        for found in (kept, same):
            assert abs(sum(found) / len(found) - 1 / 2) < 4 * (1 / 4 / len(found)) ** 0.5

    @pytest.mark.parametrize("task", SHAPES[:2])
    def test_what_a_window_shows_at_a_write_does_not_tell_which_it_is(self, task):
        """A segment back from any write no other write of its key is seen; pairs and queries are as many everywhere."""
        for inputs, _, groups in lists(task.batch("train", 0, 40, seed=0)):
            for key, pairs in written(task, inputs).items():
                for number, _ in pairs:
                    place = number * task.segment_length + pieces(task, inputs)[number].index(key)
                    seen = slice(place - task.segment_length, place)
                    assert place >= task.segment_length
                    assert key not in inputs[seen]
            for number in range(task.num_segments - task.gap):
                labels = pieces(task, groups)[number]
                assert labels.count(LOCAL) == task.local_queries


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
        parts = [self.STREAM.batch("train", index, 5, seed=2) for index in range(7, 14)]
        whole = TASK.batch("train", 1, 5, seed=2)
        for name in ("inputs", "targets", "mask", "groups"):
            assert torch.cat([getattr(part, name) for part in parts], 1).equal(getattr(whole, name))
        assert [part.starts.all().item() for part in parts] == [True, *[False] * 6]
        assert [part.starts.any().item() for part in parts] == [True, *[False] * 6]

    def test_a_segment_tells_nothing_of_what_is_stale(self):
        for index in range(7):
            batch = self.STREAM.batch("train", index, 20, seed=0)
            outputs = self.STREAM.oracle(batch)
            assert self.STREAM.metrics(outputs, batch)["stale_error"].count == 0
            assert (outputs.argmax(-1) == batch.targets)[batch.groups == LOCAL].all()


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"num_segments": 5}, "num_segments=5 is too few: 2 writes, gap=2 apart .* take 6"),
        ({"num_keys": 15}, "num_keys=15 is too few: keys_per_sequence=2, .* in each of 7 segments, take 16"),
        ({"num_values": 1}, "num_values=1 is too few: the 2 values"),
        ({"segment_length": 7}, "segment_length=7 holds 2 pairs .* and 4 queries only from 8 on"),
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
