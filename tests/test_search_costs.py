"""What a search costs: kernel and all scores in turns, and a figure with both lines."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.image
import pytest
from tiny import script

from memnets.analysis.measured import read_measured
from memnets.analysis.searches import SEARCHES, SearchRecord, search_figure
from memnets.benchmark import searches
from memnets.benchmark.searches import measure_search

MADE_BY = {"device": "cpu (a)", "torch": "2", "command": "c", "commit": "d", "date": "2026-01-01"}
ONE = SearchRecord(1024, 512, 64, 32, 1.0, 10.0, 10.0, 524.288, threads=1, **MADE_BY)


def test_measures_the_kernel_and_where_they_fit_all_scores(monkeypatch):
    monkeypatch.setattr(searches, "QUERIES", 4)
    monkeypatch.setattr(searches, "MOST_SCORES", 4 * 64)
    small, large = measure_search(16, 1, 0.02, MADE_BY), measure_search(65, 1, 0.02, MADE_BY)
    assert small.top_k == 16
    assert small.ratio == pytest.approx(small.reference_ms / small.kernel_ms)
    assert small.keys_per_us == pytest.approx(16 * 4 / (1e3 * small.kernel_ms))
    assert (large.top_k, large.reference_ms, large.ratio) == (32, None, None)


def test_figure_shows_what_was_measured(tmp_path):
    rows = [ONE, replace(ONE, keys=4096, kernel_ms=4.0, reference_ms=None)]
    with_both = matplotlib.image.imread(search_figure(rows, tmp_path / "a.png"))
    without = matplotlib.image.imread(search_figure([], tmp_path / "b.png"))
    assert with_both.std() > 1.2 * without.std()


def test_script_prints_records_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(searches, "QUERIES", 4)
    words = ["keys=16,32", "seconds=0.02", f"csv={tmp_path / SEARCHES}", f"out={tmp_path / 'a.png'}"]
    assert script("search_costs").main(words) == 0
    assert [each.keys for each in read_measured(tmp_path / SEARCHES, SearchRecord)] == [16, 32]
    assert "16 keys:" in (printed := capsys.readouterr().out)
    assert str(tmp_path / "a.png") in printed


@pytest.mark.parametrize("word", ["keys=many", "seconds=long", "keyz=3", "path"])
def test_script_refuses(word, capsys):
    assert script("search_costs").main([word]) == 2
    assert "error:" in capsys.readouterr().err
