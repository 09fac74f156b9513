"""N-grams, priority sort, key-value recall and keep n, told again by plain loops. The contract is in test_tasks.py."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.tasks.keep_n import KeepN
from memnets.tasks.key_value_recall import KeyValueRecall
from memnets.tasks.ngrams import DynamicNGrams
from memnets.tasks.priority_sort import PrioritySort

indices = st.integers(0, 10_000)


def vectors(rows):
    """Rows of bits as a list of tuples of ints."""
    return [tuple(int(bit) for bit in row) for row in rows]


def bits_of(batch, row):
    """All bits of an n-gram sequence: its inputs, and the last target."""
    return [int(bit) for bit in (*batch.inputs[row, :, 0], batch.targets[row, -1, 0])]


def followed(bits, context_size):
    """(step, ones and zeros that followed this context before, next bit) of every prediction, by a loop."""
    seen = defaultdict(lambda: [0, 0])
    for place in range(context_size, len(bits)):
        counts = seen[tuple(bits[place - context_size : place])]
        yield place - 1, counts[1], counts[0], bits[place]
        counts[bits[place]] += 1


class TestDynamicNGrams:
    def test_layout(self):
        batch = DynamicNGrams(num_steps=4).batch("train", 0, 9, 0)
        assert batch.inputs.shape == (9, 8, 1)
        assert batch.mask.equal(torch.tensor([[False] * 4 + [True] * 4] * 9))
        assert batch.targets[:, 4:-1].equal(batch.inputs[:, 5:])
        assert not batch.targets[:, :4].any()
        assert DynamicNGrams().batch("train", 0, 2, 0).mask.sum(1).tolist() == [200, 200]

    @given(indices, st.integers(1, 40), st.integers(1, 6))
    def test_oracle_is_the_optimum_of_a_loop(self, index, num_steps, context_size):
        task = DynamicNGrams(num_steps=num_steps, context_size=context_size)
        batch = task.batch("test", index, 3, 0)
        logits, cost = task.oracle(batch), 0.0
        assert not logits[:, : context_size - 1].any()
        for row in range(3):
            for step, ones, zeros, bit in followed(bits_of(batch, row), context_size):
                chance = (ones + 0.5) / (ones + zeros + 1)
                assert logits[row, step].sigmoid().item() == pytest.approx(chance, abs=1e-6)
                cost -= math.log2(chance if bit else 1 - chance)
        metrics = task.metrics(torch.zeros_like(logits), batch)
        assert metrics["optimal_bits"].total.item() == pytest.approx(cost, rel=1e-5)
        assert metrics["bits"].total.item() == pytest.approx(3 * num_steps)
        assert metrics["excess_bits"].total.item() == pytest.approx(3 * num_steps - cost, rel=1e-4, abs=1e-4)

    def test_oracle_ignores_what_comes_later(self):
        task = DynamicNGrams(num_steps=60, context_size=2)
        batch = task.batch("test", 0, 4, 0)
        for cut in range(1, 61):
            inputs = torch.cat([batch.inputs[:, :cut], 1 - batch.inputs[:, cut:]], 1)
            assert task.oracle(replace(batch, inputs=inputs))[:, :cut].equal(task.oracle(batch)[:, :cut])

    def test_chances_are_drawn_from_the_prior(self):
        """Then, and for no other prior, ones follow as often as the optimum says, whatever was counted before.

        Four standard deviations; the uniform prior would give 2/3 after a one, 3/4 after two.
        """
        batch = DynamicNGrams().batch("train", 0, 400, 0)
        after = defaultdict(list)
        for row in range(400):
            for _, ones, zeros, bit in followed(bits_of(batch, row), 5):
                after[ones, zeros].append(bit)
        for (ones, zeros), bits in after.items():
            if len(bits) > 1000:
                chance = (ones + 0.5) / (ones + zeros + 1)
                sigma = math.sqrt(chance * (1 - chance) / len(bits))
                assert sum(bits) / len(bits) == pytest.approx(chance, abs=4 * sigma), (ones, zeros)
        assert {(0, 0), (1, 0), (0, 1), (1, 1), (3, 0)} <= {
            counts for counts, bits in after.items() if len(bits) > 1000
        }

    def test_optimum_costs_what_the_paper_shows(self):
        """131 bits on average over 50,000 sequences, 37 from one to the next."""
        task = DynamicNGrams()
        batch = task.batch("test", 0, 1500, 0)
        total, count = task.metrics(task.oracle(batch), batch)["optimal_bits"]
        assert (total / count).item() == pytest.approx(131, abs=3)
        assert batch.inputs[:, :5].mean((0, 2)).tolist() == pytest.approx([0.5] * 5, abs=0.05)

    def test_length_is_the_number_of_predictions(self):
        sets = DynamicNGrams(test_lengths=(30,)).test_sets()
        assert sets["length_30"].batch("test", 0, 2, 0).mask.sum(1).tolist() == [30, 30]

    def test_solved_within_two_bits(self):
        assert DynamicNGrams.solved.met(1.9)
        assert not DynamicNGrams.solved.met(2.1)

    @pytest.mark.parametrize(
        ("sizes", "says"),
        [
            ({"num_steps": 0}, "num_steps must be at least 1, not 0"),
            ({"context_size": 0}, "context_size must be at least 1, not 0"),
            ({"context_size": 30}, "context_size must be at most 12, not 30"),
        ],
    )
    def test_refuses_what_can_not_be(self, sizes, says):
        with pytest.raises(ValueError, match=says):
            DynamicNGrams(**sizes)


class Coarse:
    """Random numbers whose priorities are 0 or 1 once rounded to what a model sees, so that most are equal."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def integers(self, *arguments):
        return self.random.integers(*arguments)

    def uniform(self, low, high, shape):
        return self.random.integers(0, 2, shape) + 1e-12 * self.random.random(shape)


def in_order(batch, row, num_items):
    """Vectors by falling priority, equal ones as they were shown, by Python's own sort."""
    bits, priorities = vectors(batch.inputs[row, :num_items, :-2]), batch.inputs[row, :num_items, -2].tolist()
    return [bits[place] for place in sorted(range(num_items), key=lambda place: -priorities[place])]


class TestPrioritySort:
    @given(indices, st.integers(1, 25), st.data())
    def test_every_row_is_sorted(self, index, num_items, data):
        num_outputs = data.draw(st.integers(1, num_items))
        batch = PrioritySort(num_items=num_items, num_outputs=num_outputs).batch("train", index, 4, 0)
        assert batch.inputs.shape == (4, num_items + 1 + num_outputs, 10)
        assert batch.inputs[..., -1].equal(torch.eye(batch.inputs.shape[1])[num_items].expand(4, -1))
        assert not batch.inputs[:, num_items:, :-1].any()
        assert batch.mask.equal(torch.arange(batch.inputs.shape[1]).gt(num_items).expand(4, -1))
        for row in range(4):
            assert vectors(batch.targets[row, num_items + 1 :]) == in_order(batch, row, num_items)[:num_outputs]

    def test_equal_priorities_keep_their_order(self, monkeypatch):
        monkeypatch.setattr(PrioritySort, "_random", lambda *arguments: Coarse())
        task = PrioritySort(num_items=60, num_outputs=50)
        batch = task.batch("train", 0, 4, 0)
        assert all(vectors(batch.targets[row, 61:]) == in_order(batch, row, 60)[:50] for row in range(4))
        assert task.metrics(task.oracle(batch), batch)["bit_errors"].total == 0

    def test_priorities_are_uniform(self):
        priorities = PrioritySort().batch("train", 0, 2000, 0).inputs[:, :20, 8]
        assert -1 <= priorities.min() < -0.999 < 0.999 < priorities.max() <= 1
        shares = priorities.histc(bins=10, min=-1, max=1) / priorities.numel()
        assert_close(shares, torch.full((10,), 0.1), rtol=0, atol=0.006)

    @pytest.mark.parametrize(("length", "num_outputs"), [(1, 1), (10, 8), (15, 12), (30, 24)])
    def test_at_length_keeps_the_proportion(self, length, num_outputs):
        task = PrioritySort(test_lengths=(length,), curriculum_batches=9).test_sets()[f"length_{length}"]
        assert task.batch("train", 0, 1, 0).inputs.shape[1] == length + 1 + num_outputs

    def test_curriculum_grows_in_training_only(self):
        task = PrioritySort(curriculum_batches=100)
        batches = [task.batch(split, index, 1, 0) for split, index in (("train", 0), ("train", 50), ("test", 0))]
        assert [batch.inputs[0, :, -1].argmax().item() for batch in batches] == [1, 10, 20]
        assert [batch.mask.sum().item() for batch in batches] == [1, 8, 16]

    def test_solved_at_the_papers_level(self):
        assert PrioritySort.solved == ("bits", 20, "min")

    @pytest.mark.parametrize(
        ("sizes", "says"),
        [
            ({"num_items": 0}, "num_items must be at least 1, not 0"),
            ({"num_outputs": 0}, "num_outputs must be at least 1, not 0"),
            ({"num_outputs": 21}, "num_outputs=21 must be at most num_items=20"),
        ],
    )
    def test_refuses_what_can_not_be(self, sizes, says):
        with pytest.raises(ValueError, match=says):
            PrioritySort(**sizes)


class TestKeyValueRecall:
    @given(indices, st.integers(1, 8), st.integers(0, 5), st.booleans())
    def test_every_row_is_what_the_docstring_draws(self, index, num_pairs, gap, noise):
        task = KeyValueRecall(num_bits=3, num_key_bits=4, noise=noise, max_pairs=8).at_length(num_pairs).at_gap(gap)
        batch, first_query = task.batch("train", index, 4, 0), num_pairs + gap
        steps = torch.arange(first_query + num_pairs)
        assert batch.mask.equal((steps >= first_query).expand(4, -1))
        assert batch.inputs[..., -2].equal((steps < num_pairs).float().expand(4, -1))
        assert batch.inputs[..., -1].equal(batch.mask.float())
        assert not batch.inputs[:, first_query:, 4:7].any()
        assert noise or not batch.inputs[:, num_pairs:first_query].any()
        for row in range(4):
            keys, values = vectors(batch.inputs[row, :, :4]), vectors(batch.inputs[row, :, 4:7])
            bound = dict(zip(keys[:num_pairs], values[:num_pairs], strict=True))
            assert len(bound) == num_pairs, "keys differ"
            assert sorted(keys[first_query:]) == sorted(bound), "each is asked for once"
            assert vectors(batch.targets[row, first_query:]) == [bound[key] for key in keys[first_query:]]

    def test_noise_fills_the_gap(self):
        batch = KeyValueRecall(noise=True, min_gap=50, max_gap=50, min_pairs=10).batch("train", 0, 20, 0)
        assert batch.inputs[:, 10:60, :-2].mean().item() == pytest.approx(0.5, abs=0.02)

    def test_queries_come_in_any_order(self):
        batch = KeyValueRecall(min_pairs=4, max_pairs=4, max_gap=0).batch("train", 0, 400, 0)
        keys, queries = batch.inputs[:, :4, :8], batch.inputs[:, 4:, :8]
        asked = (queries[:, :, None] == keys[:, None]).all(-1).float().argmax(-1)
        for place in range(4):
            assert asked[:, place].bincount(minlength=4).tolist() == pytest.approx([100] * 4, abs=35)

    def test_draws_every_number_of_pairs_and_gap(self):
        task = KeyValueRecall(max_pairs=4, max_gap=2)
        drawn = {sizes_of(task.batch("train", index, 1, 0)) for index in range(150)}
        assert drawn == {(pairs, gap) for pairs in (2, 3, 4) for gap in (0, 1, 2)}
        assert sizes_of(replace(task, curriculum_batches=99).batch("train", 0, 1, 0))[0] == 2

    def test_test_sets(self):
        sets = KeyValueRecall(test_lengths=(30,), test_gaps=(40,)).test_sets()
        assert list(sets) == ["test", "length_30", "gap_40"]
        assert sizes_of(sets["length_30"].batch("test", 0, 1, 0))[0] == 30
        assert sizes_of(sets["gap_40"].batch("test", 0, 1, 0))[1] == 40

    @pytest.mark.parametrize(
        ("sizes", "says"),
        [
            ({"num_key_bits": 0}, "num_key_bits must be at least 1, not 0"),
            ({"min_pairs": 0}, "min_pairs and max_pairs must satisfy 1 <= min <= max, not 0 and 10"),
            ({"min_gap": -1}, "min_gap and max_gap must satisfy 0 <= min <= max, not -1 and 20"),
            ({"min_gap": 21}, "min_gap and max_gap must satisfy 0 <= min <= max, not 21 and 20"),
            ({"num_key_bits": 4}, "keys of 4 bits are too few for 10 that differ"),
        ],
    )
    def test_refuses_what_can_not_be(self, sizes, says):
        with pytest.raises(ValueError, match=says):
            KeyValueRecall(**sizes)

    def test_refuses_a_test_length_that_keys_can_not_fill(self):
        with pytest.raises(ValueError, match="keys of 8 bits are too few for 129 that differ"):
            KeyValueRecall().at_length(129)


def sizes_of(batch):
    """Number of pairs and gap of a key-value batch."""
    num_pairs = int(batch.inputs[0, :, -2].sum())
    return num_pairs, batch.inputs.shape[1] - 2 * num_pairs


class TestKeepN:
    @given(indices, st.integers(1, 12), st.integers(0, 3), st.data())
    def test_every_row_is_what_the_docstring_draws(self, index, length, delay, data):
        num_kept = data.draw(st.integers(1, length))
        task = KeepN(num_bits=3, num_kept=num_kept, min_length=length, max_length=length, mark_delay=delay)
        batch, end = task.batch("train", index, 4, 0), length + delay
        steps = torch.arange(end + 1 + num_kept)
        assert batch.mask.equal((steps > end).expand(4, -1))
        assert batch.inputs[..., 4].equal((steps == end).float().expand(4, -1))
        assert not batch.inputs[:, length:, :3].any()
        for row in range(4):
            shown, marks = vectors(batch.inputs[row, :, :3]), batch.inputs[row, :, 3].nonzero().flatten().tolist()
            assert len(marks) == num_kept
            assert all(0 <= mark - delay < length for mark in marks)
            assert vectors(batch.targets[row, end + 1 :]) == [shown[mark - delay] for mark in marks]

    def test_any_step_is_marked_equally_often(self):
        marks = KeepN(min_length=10, max_length=10, mark_delay=2).batch("train", 0, 2000, 0).inputs[:, :, 8].sum(0)
        assert marks[2:12].tolist() == pytest.approx([800] * 10, abs=100)
        assert marks.sum() == 8000

    def test_lengths(self):
        task = KeepN(max_length=6, test_lengths=(200,))
        assert {length_of(task.batch("train", index, 1, 0)) for index in range(60)} == {4, 5, 6}
        assert length_of(replace(task, curriculum_batches=9).batch("train", 0, 1, 0)) == 4
        batch = task.test_sets()["length_200"].batch("test", 0, 1, 0)
        assert (length_of(batch), batch.mask.sum()) == (200, 4)

    @pytest.mark.parametrize(
        ("sizes", "says"),
        [
            ({"num_kept": 0}, "num_kept must be at least 1, not 0"),
            ({"num_kept": 5}, "num_kept=5 must be at most min_length=4"),
            ({"min_length": 0}, "min_length and max_length must satisfy 1 <= min <= max, not 0 and 20"),
            ({"mark_delay": -1}, "mark_delay must be at least 0, not -1"),
        ],
    )
    def test_refuses_what_can_not_be(self, sizes, says):
        with pytest.raises(ValueError, match=says):
            KeepN(**sizes)


def length_of(batch):
    """Length of a stream whose marks come a step late."""
    return int(batch.inputs[0, :, 9].argmax()) - 1
