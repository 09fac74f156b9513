"""MQAR: what its sequences must be, told by a loop over every row; gaps against the law. See also test_tasks.py."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from memnets.tasks.base import generator
from memnets.tasks.mqar import MQAR, distinct_among_many

TASK = MQAR()
SHAPES = [
    TASK,
    MQAR(length=512, num_pairs=64),
    MQAR(length=11, num_pairs=3, vocabulary_size=12),
    MQAR(length=3, num_pairs=1, vocabulary_size=4, power_a=1.0),
]


@pytest.mark.parametrize("task", SHAPES)
def test_every_row_is_what_the_docstring_draws(task):
    batch, half = task.batch("train", 0, 30, seed=1), task.vocabulary_size // 2
    assert batch.inputs.shape == batch.targets.shape == batch.mask.shape == (30, task.length)
    for inputs, targets, mask in zip(*(p.tolist() for p in (batch.inputs, batch.targets, batch.mask)), strict=True):
        bound = {}
        for place in range(0, 2 * task.num_pairs, 2):
            key, value = inputs[place : place + 2]
            assert key < half <= value < 2 * half
            assert key not in bound, "keys differ"
            bound[key] = value
        assert len(set(bound.values())) == task.num_pairs, "values differ"
        asked = []
        for step, (token, target, labelled) in enumerate(zip(inputs, targets, mask, strict=True)):
            if not labelled:
                assert target == 0
                continue
            assert step >= 2 * task.num_pairs
            assert step % 2 == 0
            assert target == bound[token] - half
            asked.append(token)
        assert sorted(asked) == sorted(bound), "each key is asked for once"


class TestGaps:
    def chances(self, places, power_a):
        weights = np.arange(1, places + 1) ** (power_a - 1.0)
        return weights / weights.sum()

    @pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0, 2.0])
    def test_all_are_drawn_one_after_the_other_by_the_law(self, power_a):
        """Every ordered choice of 2 of 4 places: within four standard deviations of its chance."""
        task, count = MQAR(length=12, num_pairs=2, power_a=power_a), 20_000
        chances = self.chances(4, power_a)
        found = Counter(map(tuple, task._gaps(generator(0, "train", 0), count).tolist()))
        for first, second in itertools.permutations(range(4), 2):
            chance = chances[first] * chances[second] / (1 - chances[first])
            assert abs(found[first, second] - count * chance) < 4 * (count * chance * (1 - chance)) ** 0.5
        assert sum(found.values()) == count

    def test_of_the_first_pair_at_the_paper_s_setting(self):
        task, count = MQAR(length=512, num_pairs=64), 5000
        assert task.num_places == (512 - 2 * 64) // 2
        first = task._gaps(generator(0, "train", 0), count)[:, 0]
        chances = self.chances(task.num_places, 0.01)
        for low, high in itertools.pairwise((0, 1, 2, 4, 8, 16, 32, 64, 128, 192)):
            chance = chances[low:high].sum()
            found = ((first >= low) & (first < high)).sum()
            assert abs(found - count * chance) < 4 * (count * chance * (1 - chance)) ** 0.5

    def test_pairs_take_them_in_turn(self):
        """The first pair's query tends to come first."""
        batch = TASK.batch("train", 0, 500, seed=0)
        when = [(batch.inputs[:, 8:] == batch.inputs[:, [place]]).int().argmax(1).double() for place in (0, 6)]
        assert when[0].mean() < when[1].mean() - 2


class TestDraws:
    def test_numbers_differ_and_are_uniform(self):
        drawn = distinct_among_many(generator(0, "train", 0), 6000, 6, 3)
        counts = Counter(map(tuple, drawn.tolist()))
        assert set(counts) == set(itertools.permutations(range(6), 3))
        assert all(abs(count - 50) < 5 * 50**0.5 for count in counts.values())

    def test_all_tokens_fill_the_rest(self):
        task = MQAR(vocabulary_size=16)
        batch = task.batch("train", 0, 300, seed=0)
        assert set(batch.inputs[:, 8:][~batch.mask[:, 8:]].tolist()) == set(range(16))


def test_some_value_of_the_sequence_is_at_the_plateau():
    """Whoever knows the values but not the keys is right at one of num_pairs queries."""
    task = MQAR(length=128, num_pairs=8)
    batch = task.batch("test", 0, 800, seed=0)
    outputs = torch.zeros(800, 128, task.num_values)
    outputs[torch.arange(800)[:, None], :, batch.inputs[:, 1:16:2] - task.num_values] = 1 + torch.rand(800, 8, 128)
    total, count = task.metrics(outputs, batch)["accuracy"]
    assert abs(total / count - 1 / 8) < 4 * (1 / 8 * 7 / 8 / count) ** 0.5


def test_guessing_takes_any_value():
    assert TASK.chance == {"accuracy": 1 / 4096}


def test_longer_sequences_have_as_many_pairs():
    longer = TASK.at_length(200)
    assert longer.spec == TASK.spec
    assert longer.batch("test", 0, 2, 0).mask.sum(1).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"num_pairs": 0}, "num_pairs must be at least 1, not 0"),
        ({"length": 14}, "length=14 is too short: num_pairs=4 .* take 15"),
        ({"vocabulary_size": 14}, "vocabulary_size=14 must be even and at least 16"),
        ({"vocabulary_size": 8191}, "vocabulary_size=8191 must be even"),
        ({"power_a": 0.0}, r"power_a must be greater than 0, not 0\.0"),
        ({"eval_sequences": 0}, "eval_sequences must be at least 1, not 0"),
    ],
)
def test_refuses_what_cannot_be(sizes, complaint):
    with pytest.raises(ValueError, match=complaint):
        MQAR(**sizes)
