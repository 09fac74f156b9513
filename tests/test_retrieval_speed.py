"""Timings of memories: small ones, so that it is seen that they are made, written down and shown."""

from __future__ import annotations

import re

import pytest
from tiny import script

from memnets.analysis.measured import read_measured
from memnets.analysis.retrieval_speeds import SPEEDS, SpeedRecord, render_speeds
from memnets.benchmark import retrieval

pytest.importorskip("faiss")


NUMBER = re.compile(r"\d[\d.,]*")


def test_every_kind_is_timed_recorded_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "DENSE_ENTRIES", 60)
    monkeypatch.setattr(retrieval, "WORD_ENTRIES", 40)
    path = tmp_path / SPEEDS
    for _ in range(2):  # the second takes the first one's place
        assert script("retrieval_speed").main(["calls=3", f"csv={path}"]) == 0
    rows = read_measured(path, SpeedRecord)
    assert [row.what for row in rows] == ["dense 1", "dense 32", "write, dense", "write, bm25", "bm25 1"]
    assert all(0 < row.median_ms <= row.p99_ms <= row.most_ms for row in rows)
    assert [row.ratio is not None for row in rows] == [True, True, False, False, False]
    shown, read = capsys.readouterr().out.splitlines()[-len(rows) - 4 :][:7], render_speeds(rows).splitlines()[:7]
    assert [NUMBER.sub("#", line) for line in read] == [NUMBER.sub("#", line) for line in shown], "but for rounding"


def test_what_is_not_understood_is_refused(capsys):
    assert script("retrieval_speed").main(["calls=no"]) == 2
    assert script("retrieval_speed").main(["somewhere"]) == 2
    assert "calls=no" in capsys.readouterr().err
