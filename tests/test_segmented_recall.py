"""Segmented recall: what its sequences must be, told by a loop over every row. The contract is in test_tasks.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from memnets.tasks.segmented_recall import LOCAL, REMOTE, SegmentedRecall

TASK = SegmentedRecall()
SHAPES = [
    TASK,
    SegmentedRecall(num_segments=6, segment_length=11, pairs_per_segment=3, gap=3, local_queries=1, remote_queries=4),
    SegmentedRecall(num_segments=2, segment_length=3, num_keys=2, num_values=1, num_fillers=1, pairs_per_segment=1,
                    gap=1, local_queries=0, remote_queries=1),
]  # fmt: skip


def segments_of(task, row):
    return [row[first : first + task.segment_length] for first in range(0, len(row), task.segment_length)]


@pytest.mark.parametrize("task", SHAPES)
class TestSequences:
    def test_every_row_is_what_the_docstring_draws(self, task):
        batch = task.batch("train", 0, 40, seed=1)
        first_value, first_filler = task.num_keys, task.num_keys + task.num_values
        for inputs, targets, groups in zip(
            *(p.tolist() for p in (batch.inputs, batch.targets, batch.groups)), strict=True
        ):
            bound = {}
            for number, segment in enumerate(segments_of(task, inputs)):
                for place in range(0, 2 * task.pairs_per_segment, 2):
                    key, value = segment[place : place + 2]
                    assert key < first_value <= value < first_filler
                    assert key not in bound, "keys differ within a sequence"
                    bound[key] = (number, value - first_value)
            for step, (token, target, group) in enumerate(zip(inputs, targets, groups, strict=True)):
                number, place = divmod(step, task.segment_length)
                if place < 2 * task.pairs_per_segment or token >= first_filler:
                    assert group == 0
                    continue
                source, value = bound[token]
                assert target == value
                assert group == (LOCAL if source == number else REMOTE)
                assert source == number or source <= number - task.gap
            for number, labels in enumerate(segments_of(task, groups)):
                assert labels.count(LOCAL) == task.local_queries
                assert labels.count(REMOTE) == (task.remote_queries if number >= task.gap else 0)

    def test_mask_is_where_queries_are(self, task):
        batch = task.batch("test", 2, 9, seed=0)
        assert batch.mask.equal(batch.groups > 0)
        assert batch.inputs.shape == (9, task.num_segments * task.segment_length)
        assert batch.starts is None

    def test_remote_distance_is_the_least(self, task):
        distances = []
        batch = task.batch("train", 0, 400, seed=0)
        for row, groups in zip(batch.inputs.tolist(), batch.groups.tolist(), strict=True):
            for step, group in enumerate(groups):
                if group == REMOTE:
                    distances.append(step - (row.index(row[step]) + 1))
        assert min(distances) >= task.remote_distance
        tightest = replace(task, segment_length=2 * task.pairs_per_segment + task.num_queries)
        assert tightest.remote_distance == tightest.gap * tightest.segment_length + 1


class TestDraws:
    def test_everything_is_asked_for_equally_often(self):
        """Sources of remote queries, pairs, steps and values: each within four standard deviations of uniform."""
        batch = TASK.batch("train", 0, 4000, seed=0)
        last = segments_of(TASK, batch.inputs.T)[3].T
        groups = segments_of(TASK, batch.groups.T)[3].T
        keys = torch.stack([segment[[0, 2]] for segment in segments_of(TASK, batch.inputs.T)[:2]]).flatten(0, 1)
        asked = last[groups == REMOTE].view(4000, 2)
        pairs = (asked[:, :, None] == keys.T[:, None]).int().argmax(-1)
        for counts, choices in (
            (pairs.flatten(), 4),
            ((groups == REMOTE).nonzero()[:, 1], 12),
            (batch.targets[batch.groups == REMOTE], 32),
        ):
            counted = Counter(counts.tolist())
            expected = len(counts) / choices
            assert len(counted) == choices
            assert all(abs(count - expected) < 4 * expected**0.5 for count in counted.values())

    def test_keys_and_fillers_use_all_their_tokens(self):
        batch = TASK.batch("train", 0, 300, seed=0)
        assert sorted(set(batch.inputs.flatten().tolist())) == list(range(TASK.spec.input_size))


class TestMetrics:
    def test_local_and_remote_apart(self):
        batch = TASK.batch("test", 0, 50, seed=0)
        outputs = torch.where((batch.groups == LOCAL)[..., None], TASK.oracle(batch), 0.0)
        outputs[..., 0] += torch.where(batch.groups == REMOTE, 1.0, 0.0)
        scores = {name: float(total / count) for name, (total, count) in TASK.metrics(outputs, batch).items()}
        guessed = float((batch.targets[batch.groups == REMOTE] == 0).double().mean())
        assert scores["local_accuracy"] == 1
        assert scores["remote_accuracy"] == pytest.approx(guessed)
        assert 0 < guessed < 0.2
        assert scores["accuracy"] == pytest.approx((50 * 8 + 50 * 4 * guessed) / (50 * 12))

    def test_counts_are_of_queries(self):
        batch = TASK.batch("test", 0, 50, seed=0)
        counts = [ratio.count.item() for ratio in TASK.metrics(TASK.oracle(batch), batch).values()]
        assert counts == [50 * 12, 50 * 8, 50 * 4]

    def test_blind_answers_are_at_chance_in_loss(self):
        batch = TASK.batch("test", 0, 50, seed=0)
        loss = TASK.loss(torch.zeros(50, 64, 32), batch) / batch.mask.sum()
        assert loss.item() == pytest.approx(torch.tensor(1 / TASK.chance["accuracy"]).log().item())


class TestStream:
    STREAM = SegmentedRecall(stream=True)

    def test_segments_in_turn_are_the_sequences(self):
        pieces = [self.STREAM.batch("train", index, 5, seed=2) for index in range(8)]
        for number in range(2):
            whole = TASK.batch("train", number, 5, seed=2)
            part = pieces[4 * number : 4 * number + 4]
            for name in ("inputs", "targets", "mask", "groups"):
                assert torch.cat([getattr(piece, name) for piece in part], 1).equal(getattr(whole, name))
        assert [piece.starts.tolist() for piece in pieces] == [[index % 4 == 0] * 5 for index in range(8)]

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_evaluation_is_not_cut(self, split):
        batch, whole = (task.batch(split, 1, 5, seed=2) for task in (self.STREAM, TASK))
        assert batch.inputs.equal(whole.inputs)
        assert batch.starts is None

    def test_oracle_answers_what_a_segment_holds(self):
        for index in range(4):
            batch = self.STREAM.batch("train", index, 20, seed=0)
            right = self.STREAM.oracle(batch).argmax(-1) == batch.targets
            assert right[batch.groups == LOCAL].all()


class TestSizes:
    def test_longer_sequences(self):
        longer = TASK.at_length(7)
        batch = longer.batch("test", 0, 3, seed=0)
        assert batch.inputs.shape == (3, 7 * 16)
        assert_close(longer.metrics(longer.oracle(batch), batch)["accuracy"].total, batch.mask.sum().double())
        assert longer.spec == TASK.spec

    @pytest.mark.parametrize(
        ("sizes", "complaint"),
        [
            ({"num_segments": 2}, "num_segments=2 must exceed gap=2"),
            ({"num_keys": 7}, "num_keys=7 is too few: the 4 x 2 keys"),
            ({"segment_length": 7}, "segment_length=7 holds 2 pairs .* and 4 queries only from 8 on"),
            ({"num_values": 0}, "num_values must be at least 1, not 0"),
            ({"gap": 0}, "gap must be at least 1, not 0"),
            ({"remote_queries": 0}, "remote_queries must be at least 1, not 0"),
            ({"local_queries": -1}, "local_queries must be at least 0, not -1"),
        ],
    )
    def test_refuses_what_cannot_be(self, sizes, complaint):
        with pytest.raises(ValueError, match=complaint):
            SegmentedRecall(**sizes)
