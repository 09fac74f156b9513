"""Bootstrap intervals: how often they hold the truth, of ratios too, and what they are of nothing and of constants."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from memnets.intervals import bootstrap_interval, percentile_interval, resampled_means


def share_that_holds(truth, draw, level, repetitions=200):
    """Of intervals of data drawn again and again, those that hold the truth."""
    generator, held = torch.Generator().manual_seed(0), 0
    for seed in range(repetitions):
        totals, counts = draw(generator)
        samples = resampled_means(totals[:, None], counts[:, None], num_samples=200, seed=seed)
        low, high = percentile_interval(samples[:, 0], level)
        held += low <= truth <= high
    return held / repetitions


def shares(generator, count=80):
    return (torch.rand(count, generator=generator) < 0.3).double(), torch.ones(count).double()


def ratios(generator, count=80):
    """Sequences of 1 to 20 places, each of an error rate of its own: long ones are wrong more often."""
    places = torch.randint(1, 21, (count,), generator=generator).double()
    return places * places / 40 * torch.rand(count, generator=generator) * 2, places


RATIO = sum(n * n for n in range(1, 21)) / 40 / sum(range(1, 21))


class TestCoverage:
    """200 intervals: of 95 % the standard deviation of their share is 1.5 %, of 60 % it is 3.5 %."""

    @pytest.mark.parametrize(("draw", "truth"), [(shares, 0.3), (ratios, RATIO)], ids=["shares", "ratios"])
    @pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.9, 0.99), (0.6, 0.5, 0.7)])
    def test_holds_the_truth_about_as_often_as_it_says(self, draw, truth, level, least, most):
        assert least <= share_that_holds(truth, draw, level) <= most

    def test_does_not_hold_what_is_not_true(self):
        assert share_that_holds(0.45, shares, 0.95) < 0.4
        mean_of_ratios = 21 / 2 / 40  # what one gets who divides first
        assert share_that_holds(mean_of_ratios, ratios, 0.95) < 0.4


class TestInterval:
    def test_holds_the_mean_and_narrows_with_more_examples(self):
        values, _ = shares(torch.Generator().manual_seed(0), 4000)
        for count in (100, 4000):
            low, high = bootstrap_interval(values[:count])
            deviation = math.sqrt(0.3 * 0.7 / count)
            assert low < values[:count].mean() < high
            assert 3 * deviation < high - low < 5 * deviation  # 2 x 1.96
        assert bootstrap_interval(values[:50], seed=1) == bootstrap_interval(values[:50], seed=1)
        assert bootstrap_interval(values[:50], seed=1) != bootstrap_interval(values[:50], seed=2)

    def test_of_constants_is_a_point(self):
        assert bootstrap_interval(torch.ones(9)) == (1, 1)
        assert bootstrap_interval(torch.tensor([0.25])) == (0.25, 0.25)

    def test_sums_and_counts_are_drawn_together(self):
        """Every example's mean is 0.5, however much it counts: there is nothing to be unsure of."""
        counts = torch.tensor([[1.0], [10.0], [100.0]])
        assert_close(resampled_means(counts / 2, counts), torch.full((1000, 1), 0.5).double())

    def test_metrics_are_drawn_together(self):
        draw = partial(torch.rand, 30, 1, generator=torch.Generator().manual_seed(0))
        values = draw()
        samples = resampled_means(torch.cat([values, 1 - values], 1), torch.ones(30, 2))
        assert_close(samples.sum(1), torch.ones(1000).double())

    def test_equals_a_loop(self):
        totals, counts = ratios(torch.Generator().manual_seed(1), 7)
        samples, generator = (
            resampled_means(totals[:, None], counts[:, None], 5, seed=3),
            torch.Generator().manual_seed(3),
        )
        for sample in samples[:, 0]:
            drawn = torch.randint(7, (7,), generator=generator).tolist()
            assert sample.item() == pytest.approx(sum(totals[i] for i in drawn) / sum(counts[i] for i in drawn))

    def test_samples_without_anything_that_counts_are_left_out(self):
        totals, counts = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [0.0], [0.0]])
        assert resampled_means(totals, counts).isnan().any()
        assert percentile_interval(resampled_means(totals, counts)[:, 0]) == (1, 1)
        assert all(map(math.isnan, percentile_interval(resampled_means(totals * 0, counts * 0)[:, 0])))

    def test_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="there is nothing to draw from: no examples"):
            bootstrap_interval(torch.tensor([]))
