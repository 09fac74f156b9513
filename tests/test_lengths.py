"""What an evaluation draws, and the error against length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_folders import ERRORS, write_run
from safetensors.numpy import save_file
from test_figures import arrays_of, make_trace

from memnets.analysis.groups import group_runs
from memnets.analysis.lengths import error_by_length, errors_by_length, trained_lengths
from memnets.analysis.report import draw_evaluation, make_report, write_report
from memnets.analysis.runs import find_runs

BY_LENGTH = {f"length_{length}": {"loss": 1.0, "bit_errors": length / 4} for length in (40, 8, 20)}


def test_an_evaluations_pictures(tmp_path):
    folder = write_run(tmp_path)
    (folder / "evaluation").mkdir()
    gates = {"gate": np.full((11, 2), 0.5, np.float32)}
    save_file(arrays_of(make_trace(emitted=gates)), folder / "evaluation" / "trace.safetensors")
    paths = draw_evaluation(folder, BY_LENGTH)
    assert [path.name for path in paths] == ["addressing.png", "emitted.png", "error_by_length.png", "steps.html"]
    assert all(path.parent == folder / "evaluation" for path in paths)
    draw_evaluation(folder, {"test": {"bit_errors": 0.0}})
    assert not (folder / "evaluation" / "error_by_length.png").exists(), "an older evaluation's figure stayed"


class TestErrorByLength:
    def test_shortest_first_and_trained_lengths_shaded(self):
        (axes,) = error_by_length(BY_LENGTH | {"test": {"bit_errors": 9.0}}, (1, 20)).axes
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[8, 2], [20, 5], [40, 10]])
        assert axes.get_ylabel() == "bit errors"
        assert axes.patches[0].get_x() == 1
        assert axes.patches[0].get_width() == 19

    @pytest.mark.parametrize("results", [{}, {"test": {"bit_errors": 0.0}}, {"length_3": {"bit_errors": 0.0}}])
    def test_one_length_is_no_figure(self, results):
        assert error_by_length(results) is None

    def test_the_trained_range_is_the_tasks_own(self):
        assert trained_lengths({"max_length": 20, "eval_sequences": 4, "min_length": 1}) == (1, 20)
        assert trained_lengths({"max_age": 20}) is None


class TestErrorsByLength:
    def test_median_and_quartiles_over_seeds(self, tmp_path):
        runs = [read(with_lengths(write_run(tmp_path, seed=seed), error)) for seed, error in ERRORS.items()]
        (axes,) = errors_by_length(group_runs(runs), "bit_errors").axes
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[40, 0.5], [80, 1.0]])
        band = axes.collections[0].get_paths()[0].vertices
        low, high = np.percentile(list(ERRORS.values()), [25, 75])
        np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [low, 2 * high])

    def test_one_length_is_no_figure(self, tmp_path):
        assert errors_by_length(group_runs([read(write_run(tmp_path))]), "bit_errors") is None

    def test_a_report_draws_it(self, tmp_path):
        for seed, error in ERRORS.items():
            with_lengths(write_run(tmp_path / "runs", seed=seed), error)
        write_report(make_report(find_runs([tmp_path / "runs"])[0]), tmp_path / "out")
        assert (tmp_path / "out" / "error_by_length_copy_1.png").exists()


def with_lengths(folder: Path, error: float) -> Path:
    """A run that was tested at length 80 too, where it errs twice as often as at 40."""
    row = {"step": 400, "sequences": 6400, "split": "length_80", "bit_errors": 2 * error}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return folder


def read(folder: Path):
    (run,), _ = find_runs([folder])
    return run
