"""What a memory costs: a table, kinds that compose, and a peak that is the process's own."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from memnets.analysis.costs import CostRecord, render_costs
from memnets.benchmark import memories
from memnets.benchmark.memories import KINDS, PLAIN, make_model, measure_cost, peak_mb, read_until_full

MADE_BY = {"device": "cpu (a)", "torch": "2", "command": "c", "commit": "d", "date": "2026-01-01"}
ONE = CostRecord("knn 8192", "fresh", 700.0, 910.0, 1.3, 470.0, 500.0, "model=x", threads=1, **MADE_BY)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(memories, "TIME", 8)
    sizes = ("model.d_model=16", "model.num_layers=2", "model.num_heads=2", "model.window=8")
    monkeypatch.setattr(memories, "SIZES", sizes)


class TestTable:
    def test_table_tells_ratio_and_origin(self):
        text = render_costs([ONE])
        assert "| knn 8192 | fresh | 700 | 910 | 1.3 | 470 | 500 |" in text
        assert "`c` at d, 2026-01-01, cpu (a), 1 thread(s)" in text


class TestKinds:
    @pytest.mark.parametrize("name", KINDS)
    def test_composes_and_has_a_memory(self, name, small):
        overrides = [word for word in KINDS[name] if "num_slots" not in word and "capacity" not in word]
        model, plain = make_model(tuple(overrides)), make_model((PLAIN,))
        assert model.memories or model.memory_tokens is not None
        assert not plain.memories
        assert plain.memory_tokens is None

    def test_carried_states_are_full(self, small):
        model = make_model(("model=memory_transformer_segment_cache", "model.memory.capacity=20"))
        state = read_until_full(model, torch.zeros(2, 8, dtype=torch.long))
        assert state.position.tolist() == [32, 32]
        assert all(layer.memory.written.min() >= 20 for layer in state.layers)
        assert not state.layers[0].keys.requires_grad

    def test_measures_both_sides(self, small, monkeypatch):
        monkeypatch.setattr(memories, "peak_mb", lambda overrides, state, threads: float(len(overrides)))
        record = measure_cost("persistent 16", "carried", 1, 0.05, MADE_BY)
        assert record.ratio == pytest.approx(record.memory_ms / record.plain_ms)
        assert record.memory_ms > 0
        assert record.plain_peak_mb == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_is_of_a_process_of_its_own(monkeypatch):
    """What this process holds doesn't count, what the other allocates does."""
    held = torch.ones(2**24)
    script = "import json, sys, torch; from memnets.benchmark.memories import _most_mb as most; "
    script += "before = most(); made = torch.ones(2**24); print(most() - before)"
    real = memories.subprocess.run

    def run(command, **options):
        return real([command[0], "-c", script, command[3]], **options)

    monkeypatch.setattr(memories.subprocess, "run", run)
    assert 60 < peak_mb((PLAIN,), "fresh", 1) < 75
    assert json.loads(str(held.numel())) == 2**24
