"""Timings of an encoder: a small one, so that it is seen that they are made, written down and shown."""

from __future__ import annotations

import pytest
import torch
from bert_example import write_bert
from squad_example import write_squad
from tiny import script
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from memnets.analysis.encoding_speeds import ENCODING_SPEEDS, EncodingRecord, render_encodings
from memnets.analysis.measured import read_measured
from memnets.benchmark import encoding, timing
from memnets.benchmark.encoding import encoders, flops, padded_lengths

pytest.importorskip("transformers")

TEXTS = ["ada lives", "bob plays the flute the flute in london", "eve", "ada lives in london in the park"]


@pytest.fixture
def folder(tmp_path):
    return write_bert(tmp_path / "bert")


def test_every_way_is_timed_recorded_and_shown(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setitem(timing.PEAK_SIZE, "cpu", 8)
    monkeypatch.setattr(encoding, "MAX_TOKENS", 32)  # its network has 40 positions
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    (write_squad(tmp_path) / "squad" / "dev-v1.1.json").rename(tmp_path / "squad" / "tiny.json")  # not the published
    path = tmp_path / ENCODING_SPEEDS
    words = [f"encoder={folder}", "texts=5", "seconds=1", "file=tiny", f"data_root={tmp_path}", f"csv={path}"]
    for _ in range(2):  # the second takes the first one's place
        assert script("encoding_speed").main(words) == 0
    rows = read_measured(path, EncodingRecord)
    assert [row.way for row in rows] == ["float32 unsorted", "float32 sorted", "bfloat16 sorted"]
    assert all(min(row.seconds, row.gflops, row.peak_gflops) > 0 for row in rows)
    assert all(row.texts == 5 and row.tokens == rows[0].tokens > 50 for row in rows)
    assert [row.texts_per_second * row.seconds for row in rows] == pytest.approx([5] * 3, rel=1e-4)
    shown, printed = (text.splitlines() for text in (render_encodings(rows), capsys.readouterr().out))
    cells = [[line.split(" | ")[:4] for line in lines] for lines in (shown[:5], printed[-len(shown) :][:5])]
    assert cells[0] == cells[1]  # the others may be rounded twice


def test_what_is_not_understood_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    assert script("encoding_speed").main(["texts=no"]) == 2
    assert script("encoding_speed").main(["somewhere"]) == 2
    assert script("encoding_speed").main([f"data_root={tmp_path}"]) == 1
    assert "missing data" in capsys.readouterr().err


def test_the_ways_encode_the_same(folder):
    found = {way: encoder.encode(TEXTS).vectors for way, encoder in encoders(str(folder)).items()}
    torch.testing.assert_close(found["float32 unsorted"], found["float32 sorted"])
    torch.testing.assert_close(found["bfloat16 sorted"], found["float32 sorted"], rtol=0, atol=0.05)


def test_only_sorted_texts_of_like_length_share_a_batch(folder):
    ways = encoders(str(folder))
    for encoder in ways.values():
        encoder.batch_size = 2
    unsorted, ordered = (padded_lengths(ways[f"float32 {way}"], TEXTS) for way in ("unsorted", "sorted"))
    assert sorted(own for own, _ in unsorted) == sorted(own for own, _ in ordered)
    assert sum(padded for _, padded in ordered) < sum(padded for _, padded in unsorted)
    assert [padded for _, padded in unsorted] == [max(unsorted[0][0], unsorted[1][0])] * 2 + [
        max(unsorted[2][0], unsorted[3][0])
    ] * 2


def test_arithmetic_is_that_of_the_matrix_products(folder):
    """Against PyTorch's own count of a forward pass."""
    encoder = encoders(str(folder))["float32 sorted"]
    (ids,) = encoder._tokens([TEXTS[1]])
    network = encoder._loaded[1]
    network.pooler = None
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:  # a fused one isn't counted
        network(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    assert flops(encoder, len(ids)) == counted.get_total_flops()
