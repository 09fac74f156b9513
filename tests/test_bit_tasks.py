"""The tasks over bits: what each paper says of its layout, its sizes and its draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.contracts import Ratio
from memnets.tasks.associative_recall import AssociativeRecall
from memnets.tasks.copy import Copy
from memnets.tasks.repeat_copy import RepeatCopy


class TestCopy:
    def test_layout(self):
        batch = Copy(num_bits=2, min_length=2, max_length=2).batch("train", 0, 1, 0)
        bits = batch.inputs[0, :2, :2]
        assert batch.inputs[0, 2].tolist() == [0, 0, 1]
        assert not batch.inputs[0, 3:].any()
        assert batch.mask.tolist() == [[False, False, False, True, True]]
        assert batch.targets[0, 3:].equal(bits)
        assert not batch.targets[0, :3].any()

    def test_lengths_are_uniform(self):
        lengths = [Copy(max_length=4).batch("train", index, 1, 0).mask.sum().item() for index in range(400)]
        assert [lengths.count(length) / 400 for length in range(1, 5)] == pytest.approx([0.25] * 4, abs=0.06)

    def test_bits_are_fair(self):
        bits = Copy(min_length=20).batch("train", 0, 200, 0).targets[:, 21:]
        assert bits.mean().item() == pytest.approx(0.5, abs=0.02)

    def test_curriculum_grows_in_training_only(self):
        task = Copy(max_length=20, curriculum_batches=100)
        longest = [
            max(task.batch(split, start + index, 1, seed).mask.sum().item() for index in range(5) for seed in range(9))
            for split, start in (("train", 0), ("train", 45), ("train", 100), ("test", 0))
        ]
        assert longest[0] == 1
        assert longest[1] in range(7, 13)
        assert min(longest[2:]) > 15

    def test_at_length(self):
        task = replace(Copy(curriculum_batches=50), test_lengths=(30,))
        assert task.test_sets()["length_30"].batch("test", 0, 1, 0).mask.sum() == 30
        assert task.at_length(7).batch("train", 0, 1, 0).mask.sum() == 7

    @pytest.mark.parametrize("name", ["num_bits", "eval_sequences"])
    def test_refuses_sizes_of_nothing(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            Copy(**{name: 0})

    @pytest.mark.parametrize(("low", "high"), [(0, 3), (4, 3)])
    def test_refuses_empty_ranges(self, low, high):
        with pytest.raises(ValueError, match=f"min_length and max_length .* not {low} and {high}"):
            Copy(min_length=low, max_length=high)

    def test_metrics_count_sequences(self):
        task = Copy(num_bits=3, min_length=4, max_length=4)
        batch = task.batch("test", 0, 4, 0)
        outputs = task.oracle(batch)
        outputs[1, -2:] *= -1  # two vectors of three bits, all wrong
        metrics = task.metrics(outputs, batch)
        assert metrics["bit_errors"] == Ratio(6, 4)
        assert metrics["sequence_errors"] == Ratio(1, 4)

    def test_bits_are_the_cost_of_a_sequence(self):
        """A coin costs a bit; twice the chance of being right costs one less; steps that don't count cost nothing."""
        task = Copy(num_bits=3, min_length=4, max_length=4)
        batch = task.batch("test", 0, 2, 0)
        sure = task.oracle(batch)
        quarter = torch.tensor(3.0).log() * (1 - 2 * batch.targets)  # the chance of what is right is 1/4
        outputs = torch.stack([torch.zeros_like(sure[0]), quarter[1]])
        assert task.metrics(sure, batch)["bits"].total < 1e-9
        total, count = task.metrics(outputs, batch)["bits"]
        assert (total.item(), count) == (pytest.approx(12 * 1 + 12 * 2), 2)

    def test_loss_of_zeros_is_one_bit_per_bit(self):
        task = Copy()
        batch = task.batch("test", 0, 4, 0)
        loss = task.loss(torch.zeros_like(batch.targets), batch)
        assert_close(loss / batch.mask.sum(), torch.tensor(2.0).log())


class TestRepeatCopy:
    def test_layout(self):
        batch = RepeatCopy(num_bits=2, min_length=2, max_length=2, num_repeats=3).batch("train", 0, 1, 0)
        bits = batch.inputs[0, :2, :2]
        assert batch.inputs[0, 2, :3].tolist() == [0, 0, 1]
        assert not batch.inputs[0, 3:].any()
        assert not batch.inputs[0, :2, 2:].any()
        assert batch.mask[0].tolist() == [False] * 3 + [True] * 7
        assert batch.targets[0, 3:9, :2].equal(torch.cat([bits, bits, bits]))
        assert batch.targets[0, :, 2].nonzero().tolist() == [[9]]
        assert batch.targets[0, 9].tolist() == [0, 0, 1]

    @pytest.mark.parametrize(("low", "high"), [(1, 10), (2, 5), (3, 3)])
    def test_count_has_mean_0_and_variance_1(self, low, high):
        task = RepeatCopy(min_repeats=low, max_repeats=high)
        counts = torch.tensor([count_of(task.at_repeats(n)) for n in range(low, high + 1)])
        assert counts.mean().item() == pytest.approx(0, abs=1e-6)
        assert counts.var(unbiased=False).item() == pytest.approx(1 if high > low else 0, abs=1e-6)

    def test_counts_beyond_training_keep_the_scale(self):
        task = RepeatCopy()
        step = count_of(task.at_repeats(2)) - count_of(task.at_repeats(1))
        assert count_of(task.at_repeats(20)) == pytest.approx(count_of(task.at_repeats(10)) + 10 * step, abs=1e-5)
        assert count_of(task.at_repeats(20).at_length(15)) == count_of(task.at_repeats(20))

    def test_test_sets(self):
        sets = RepeatCopy(test_lengths=(20,), test_repeats=(12,)).test_sets()
        assert list(sets) == ["test", "length_20", "repeats_12"]
        for index in range(5):
            assert (sets["length_20"].batch("test", index, 1, 0).mask.sum() - 1) % 20 == 0
            assert (sets["repeats_12"].batch("test", index, 1, 0).mask.sum() - 1) % 12 == 0

    def test_draws_every_length_and_count(self):
        task = RepeatCopy(max_length=3, max_repeats=3)
        drawn = {
            (b.inputs[0, :, 8].argmax().item(), b.mask.sum().item())
            for b in (task.batch("train", i, 1, 0) for i in range(150))
        }
        assert drawn == {(length, length * repeats + 1) for length in (1, 2, 3) for repeats in (1, 2, 3)}

    def test_curriculum(self):
        first = RepeatCopy(curriculum_batches=1000).batch("train", 0, 1, 0)
        assert first.mask.sum() == 2

    def test_refuses_what_can_not_be(self):
        with pytest.raises(ValueError, match="min_repeats and max_repeats"):
            RepeatCopy(min_repeats=3, max_repeats=2)
        with pytest.raises(ValueError, match=r"num_repeats must be at least 1.* not 0"):
            RepeatCopy().at_repeats(0)


class TestAssociativeRecall:
    def test_layout(self):
        """Items | query | answer: 3 items of 2 vectors, each behind its delimiter; the query between two of its own."""
        batch = AssociativeRecall(num_bits=3, item_length=2, min_items=3, max_items=3).batch("train", 0, 9, 0)
        bits, items, queries = batch.inputs[..., :3], batch.inputs[0, :, 3], batch.inputs[0, :, 4]
        assert items.nonzero().flatten().tolist() == [0, 3, 6]
        assert queries.nonzero().flatten().tolist() == [9, 12]
        assert not bits[:, [0, 3, 6, 9, 12, 13, 14]].any()
        assert batch.mask[0].nonzero().flatten().tolist() == [13, 14]
        for row in range(9):
            shown = [bits[row, start : start + 2] for start in (1, 4, 7)]
            (asked,) = (i for i, item in enumerate(shown) if item.equal(bits[row, 10:12]))
            assert batch.targets[row, 13:].equal(shown[asked + 1])

    @given(st.integers(0, 1000), st.integers(2, 4))
    def test_items_of_a_sequence_differ(self, index, num_items):
        """At the fewest possible items, where most first draws repeat one."""
        task = AssociativeRecall(num_bits=1, min_items=num_items, max_items=num_items)
        batch = task.batch("train", index, 20, 0)
        items = batch.inputs[:, : 4 * num_items, 0].view(20, num_items, 4)
        assert all(len(row.unique(dim=0)) == num_items for row in items)

    def test_redrawing_favours_no_item(self):
        """8 possible items, 4 shown: each place holds each of them equally often."""
        batch = AssociativeRecall(num_bits=1, min_items=4, max_items=4).batch("train", 0, 8000, 0)
        items = batch.inputs[:, :16, 0].view(8000, 4, 4)[:, :, 1:] @ torch.tensor([1.0, 2, 4])
        for place in range(4):
            shares = items[:, place].long().bincount(minlength=8) / 8000
            assert_close(shares, torch.full((8,), 1 / 8), rtol=0, atol=0.015)

    def test_asks_for_any_but_the_last(self):
        batch = AssociativeRecall(min_items=5, max_items=5).batch("train", 0, 400, 0)
        items = batch.inputs[:, :20, :6].reshape(400, 5, 4, 6)[:, :, 1:]
        asked = (items == batch.inputs[:, None, 21:24, :6]).all(-1).all(-1).float().argmax(1)
        assert asked.bincount().tolist() == pytest.approx([100] * 4, abs=30)

    def test_at_length_is_the_number_of_items(self):
        sets = AssociativeRecall(test_lengths=(12,)).test_sets()
        assert sets["length_12"].batch("test", 0, 1, 0).inputs[0, :, 6].sum() == 12

    def test_refuses_what_can_not_be(self):
        with pytest.raises(ValueError, match="min_items must be at least 2"):
            AssociativeRecall(min_items=1)
        with pytest.raises(ValueError, match="too few for 5 that differ"):
            AssociativeRecall(num_bits=1, max_items=5)
        with pytest.raises(ValueError, match="min_items and max_items"):
            AssociativeRecall().at_length(0)


def count_of(task):
    """What the count channel shows at the delimiter."""
    batch = task.batch("test", 0, 1, 0)
    delimiter = int(batch.inputs[0, :, task.num_bits].argmax())
    return batch.inputs[0, delimiter, task.num_bits + 1].item()
