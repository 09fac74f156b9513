"""What seeds make of a metric: mean and spread, which is best, and which of several restarts is chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from run_folders import ERRORS, one_group, write_run

from memnets.analysis.tables import better, plain, spread, statistic, statistics


class TestStatistics:
    def test_against_numpy(self, tmp_path):
        group = one_group(*(write_run(tmp_path, seed=seed) for seed in ERRORS))
        results = {result.metric: result for result in statistics(group)}
        values = list(ERRORS.values())
        found = results["test/bit_errors"]
        assert (found.seeds, found.best) == (3, 0.0)
        np.testing.assert_allclose(
            [found.mean, found.std, found.median], [np.mean(values), np.std(values, ddof=1), 0.5]
        )
        np.testing.assert_allclose([found.lower_quartile, found.upper_quartile], np.percentile(values, [25, 75]))
        assert results["seconds"].mean == 11.0
        assert "validation/loss" not in results

    def test_equal_values_have_no_spread_at_all(self):
        """Their mean is rounded, and is not one of them."""
        assert np.mean([0.99] * 3) != 0.99
        assert statistic("test/recall", [0.99] * 3).std == 0

    def test_one_seed_has_no_spread(self):
        result = statistic("test/accuracy", [0.25])
        assert (result.mean, result.std, result.median, result.best) == (0.25, None, 0.25, 0.25)
        assert (result.lower_quartile, result.upper_quartile) == (None, None)

    def test_solved_shows_the_share_and_sequences_only_those_that_did(self, tmp_path):
        solved = {0: 3200, 1: None, 2: 4800}
        folders = [write_run(tmp_path, seed=seed, solved_at_sequences=at) for seed, at in solved.items()]
        results = {result.metric: result for result in statistics(one_group(*folders))}
        assert (results["solved"].mean, results["solved"].seeds) == (pytest.approx(2 / 3), 3)
        assert (results["sequences_to_solve"].mean, results["sequences_to_solve"].seeds) == (4000, 2)

    def test_unfinished_runs_do_not_count(self, tmp_path):
        folders = [write_run(tmp_path, seed=0), write_run(tmp_path, seed=2, status="interrupted")]
        assert {result.seeds for result in statistics(one_group(*folders))} == {1}

    def test_nan_is_not_hidden_and_never_best(self):
        result = statistic("test/loss", [np.nan, 2.0, 1.0])
        assert np.isnan([result.mean, result.median]).all()
        assert result.best == 1.0
        assert statistic("test/loss", [np.nan]).best is None

    def test_patterns_choose(self, tmp_path):
        group = one_group(write_run(tmp_path))
        names = [result.metric for result in statistics(group, ["validation/*", "solved"])]
        assert names == ["validation/loss", "validation/bit_errors", "solved"]

    @pytest.mark.parametrize(
        ("metric", "direction"),
        [
            ("test/accuracy_10", "more"),
            ("test/hits_3", "more"),
            ("squad/f1", "more"),
            ("test/bit_errors", "less"),
            ("test/loss", "less"),
            ("sequences_to_solve", "less"),
            ("test/remote_accuracy", "more"),
            ("solved", "more"),
            ("test/usage", None),
            ("errors/usage", None),
        ],
    )
    def test_which_way_is_better(self, metric, direction):
        assert better(metric) == direction
        assert statistic(metric, [1.0, 2.0]).best == {"less": 1.0, "more": 2.0, None: None}[direction]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.00423, 0.00131, "0.0042 ± 0.0013"),
        (48211.0, 9123.0, "48,200 ± 9,100"),
        (12.34, None, "12.34"),
        (0.0, 0.0, "0 ± 0"),
        (-0.001, 0.5, "0.00 ± 0.50"),
        (3e-9, 1e-9, "3e-09 ± 1e-09"),
        (float("nan"), 1.0, "nan ± 1"),
    ],
)
def test_mean_and_std_are_written_to_the_same_digit(mean, std, text):
    assert spread(mean, std) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.03125, "0.03125"), (48210.4, "48,210"), (1.2e-7, "1.2e-07"), (3.0, "3"), (0.1 + 0.2, "0.3")]
)
def test_plain_numbers(value, text):
    assert plain(value) == text


class TestChosen:
    """Of several restarts, as a paper that reports the best of them may choose it."""

    LOSSES = (0.3, 0.1, 0.2)

    def restarts(self, root, **trainer):
        """Runs of seeds 0 to 2 that end with these training losses; later ones have more errors when validated."""
        for seed, loss in enumerate(self.LOSSES):
            folder = write_run(root, seed=seed)
            end = {"step": 500, "sequences": 8000}
            rows = [
                {**end, "split": "validation", "error": 0.2 + 0.1 * seed},
                {**end, "split": "train", "loss": loss},
                {**end, "split": "validation", "error": 0.5 - 0.2 * seed},
            ]
            with (folder / "metrics.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            config = yaml.safe_load((folder / "config.yaml").read_text())
            (folder / "config.yaml").write_text(yaml.safe_dump(config | {"trainer": trainer}))
            yield folder

    def chosen(self, *folders):
        return next(result.selected for result in statistics(one_group(*folders), ["test/bit_errors"]))

    def test_is_the_one_of_least_training_loss(self, tmp_path):
        assert self.chosen(*self.restarts(tmp_path)) == ERRORS[1]

    @pytest.mark.parametrize(("mode", "seed"), [("min", 2), ("max", 0)])
    def test_is_the_best_by_what_early_stopping_watched(self, tmp_path, mode, seed):
        stopping = {"metric": "error", "mode": mode, "patience": 20}
        assert self.chosen(*self.restarts(tmp_path, early_stopping=stopping)) == ERRORS[seed]

    def test_is_none_where_runs_tell_nothing(self, tmp_path):
        folders = list(self.restarts(tmp_path, early_stopping={"metric": "f1", "mode": "max"}))
        assert self.chosen(*folders) is None
