"""Which memory? A table and a figure from records of what kinds can do and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_memory_costs import ONE
from test_results import line as record_of

from memnets.analysis.costs import CostRecord
from memnets.analysis.markdown import updated
from memnets.analysis.measured import add_measured
from memnets.analysis.memories import decision_figure, kind_of, render_memories, short
from memnets.analysis.records import COLUMNS
from memnets.analysis.rows import write_rows


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    label = "transformer_recall model={} trainer.max_steps=9"
    rows = [
        record_of(label.format("memory_transformer_delta"), "test/remote_accuracy", mean=0.98, std=0.01),
        record_of(label.format("memory_transformer"), "test/remote_accuracy", mean=0.75, std=None),
        record_of(label.format("transformer"), "test/remote_accuracy", mean=0.03, std=None),
        record_of("transformer_wikitext2 model=memory_transformer", "test/perplexity", mean=80.0, std=None),
    ]
    write_rows(folder / "memory_transformers.csv", COLUMNS, rows)
    costs = [
        replace(ONE, memory=name, model=model, state=state, ratio=ratio, peak_mb=ratio * 100)
        for name, model, state, ratio in [
            ("delta", "model=memory_transformer_delta", "carried", 1.2),
            ("delta", "model=memory_transformer_delta", "fresh", 9.0),
            ("knn 8192", "model=memory_transformer model.memory.capacity=8192", "carried", 1.3),
            ("knn 65536", "model=memory_transformer model.memory.capacity=65536", "carried", 1.8),
        ]
    ]
    add_measured(folder / "memory_costs.csv", CostRecord, costs)
    return folder


def test_a_row_per_kind_without_a_memory_first(results):
    assert render_memories(results).splitlines() == [
        "| memory | recall beyond the window | WikiText-2 perplexity | step, times the plain one's | "
        "memory of a step, MB |",
        "|---|---:|---:|---:|---:|",
        "| none | 0.03 |  | 1 | 470 |",
        "| delta | 0.980 ± 0.010 |  | 1.20 | 120 |",
        "| kNN | 0.75 | 80 | 1.30 (knn 8192), 1.80 (knn 65536) | 130 (knn 8192), 180 (knn 65536) |",
    ]


def test_documents_take_it_by_name(results, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(
        "<!-- table: which_memory -->\n<!-- end table -->\n<!-- table: memory_costs -->\n<!-- end table -->\n"
    )
    text = updated(document, results)
    assert "| delta | 0.980 ± 0.010 |" in text
    assert "| knn 8192 | carried |" in text


def test_figure_is_drawn(results, tmp_path):
    path = decision_figure(results, tmp_path / "which_memory.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_kinds_in_words():
    assert kind_of("transformer_recall model=memory_transformer_segment_cache") == "memory_transformer_segment_cache"
    assert kind_of("ntm_copy") == ""
    assert [short(name) for name in ("transformer", "memory_transformer", "memory_transformer_segment_cache")] == [
        "none", "kNN", "segment cache"
    ]  # fmt: skip
