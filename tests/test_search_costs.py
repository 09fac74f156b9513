"""What a search costs: records that survive their CSV, a table that names its numbers, a figure with both lines."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

from memnets.analysis.records import tables
from memnets.analysis.rows import RecordError
from memnets.analysis.searches import SEARCHES, SearchRecord, add_searches, read_searches, search_figure
from memnets.benchmark import searches
from memnets.benchmark.searches import measure_search

MADE_BY = {"device": "cpu (a)", "torch": "2", "command": "c", "commit": "d", "date": "2026-01-01"}
ONE = SearchRecord(1024, 512, 64, 32, 1, 1.0, 10.0, 10.0, 524.288, **MADE_BY)


def script():
    path = Path(__file__).parent.parent / "scripts" / "search_costs.py"
    spec = importlib.util.spec_from_file_location("search_costs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_records_survive_their_csv(tmp_path):
    path = tmp_path / SEARCHES
    add_searches(path, [ONE, replace(ONE, keys=2048, reference_ms=None, ratio=None)])
    add_searches(path, [replace(ONE, kernel_ms=2.0)])
    assert [(each.keys, each.kernel_ms, each.ratio) for each in read_searches(path)] == [(1024, 2, 10), (2048, 1, None)]
    assert tables(tmp_path) == {}  # no table of experiments


def test_refuses_what_is_no_number(tmp_path):
    add_searches(tmp_path / SEARCHES, [ONE])
    path = tmp_path / SEARCHES
    path.write_text(path.read_text().replace("524.288", "many"))
    with pytest.raises(RecordError, match=r"search_costs.csv:2: .*measure it again"):
        read_searches(path)


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
    assert script().main(words) == 0
    assert [each.keys for each in read_searches(tmp_path / SEARCHES)] == [16, 32]
    assert "16 keys:" in (printed := capsys.readouterr().out)
    assert str(tmp_path / "a.png") in printed


@pytest.mark.parametrize("word", ["keys=many", "seconds=long", "keyz=3", "path"])
def test_script_refuses(word, capsys):
    assert script().main([word]) == 2
    assert "error:" in capsys.readouterr().err
