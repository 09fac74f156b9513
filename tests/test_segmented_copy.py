"""Segmented copy: what its sequences must be, told by a loop over every row. The contract is in test_tasks.py."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from memnets.tasks.segmented_copy import SegmentedCopy

TASK = SegmentedCopy()
SHAPES = [
    TASK,
    SegmentedCopy(num_segments=5, segment_length=3, copied_segments=2, num_symbols=5, num_fillers=1),
    SegmentedCopy(num_segments=2, segment_length=1, num_symbols=2, num_fillers=1),
]


@pytest.mark.parametrize("task", SHAPES)
def test_every_row_is_what_the_docstring_draws(task):
    batch = task.batch("train", 0, 40, seed=1)
    count, length = task.copied_segments * task.segment_length, task.num_segments * task.segment_length
    begin = task.spec.input_size - 1
    assert batch.inputs.shape == (40, length)
    for inputs, targets, mask in zip(*(p.tolist() for p in (batch.inputs, batch.targets, batch.mask)), strict=True):
        symbols, between, copied = inputs[:count], inputs[count:-count], inputs[-count:]
        assert all(symbol < task.num_symbols for symbol in symbols)
        assert all(task.num_symbols <= token < begin for token in between)
        assert copied == [begin, *symbols[:-1]]
        assert targets == [0] * (length - count) + symbols
        assert mask == [False] * (length - count) + [True] * count
    assert task.remote_distance == length - count


def test_symbols_are_independent_and_uniform():
    """Pairs of neighbours, and fillers: within four standard deviations of equally often."""
    task = SegmentedCopy(num_symbols=3)
    inputs = task.batch("train", 0, 3000, seed=0).inputs
    for counted, choices in (
        (Counter(map(tuple, inputs[:, 4:6].tolist())), 9),
        (Counter(inputs[:, 16:48].flatten().tolist()), 8),
    ):
        expected = sum(counted.values()) / choices
        assert len(counted) == choices
        assert all(abs(count - expected) < 4 * expected**0.5 for count in counted.values())


def test_metrics_of_places_and_of_whole_sequences():
    batch = TASK.batch("test", 0, 10, seed=0)
    outputs = TASK.oracle(batch)
    outputs[:3, -1] = outputs[:3, -1].roll(1, -1)
    outputs[0, -16:] = outputs[0, -16:].roll(1, -1)
    outputs[0, -1] = outputs[0, -1].roll(-1, -1)
    outputs[:, :-16] = torch.randn(10, 48, 16)
    found = TASK.metrics(outputs, batch)
    assert found["sequence_accuracy"] == (7, 10)
    assert found["accuracy"] == (160 - 2 - 16, 160)
    assert TASK.chance == {"accuracy": 1 / 16, "sequence_accuracy": 2.0**-64}


def test_a_stream_is_the_sequences_and_counts_where_they_end():
    task = SegmentedCopy(stream=True, num_segments=5, copied_segments=2)
    parts = [task.batch("train", index, 4, seed=2) for index in range(5, 10)]
    whole = SegmentedCopy(num_segments=5, copied_segments=2).batch("train", 1, 4, seed=2)
    for name in ("inputs", "targets", "mask"):
        assert torch.cat([getattr(part, name) for part in parts], 1).equal(getattr(whole, name))
    assert [part.starts.tolist() for part in parts] == [[number == 0] * 4 for number in range(5)]
    counts = [task.metrics(task.oracle(part), part)["sequence_accuracy"].count for part in parts]
    assert counts == [0, 0, 0, 4, 4]
    assert task.batch("test", 0, 4, seed=2).inputs.shape == (4, 80)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"num_segments": 1}, "num_segments=1 is too few: copied_segments=1 are read and written, which takes 2"),
        ({"copied_segments": 3}, "num_segments=4 is too few: copied_segments=3 .* takes 6"),
        ({"copied_segments": 0}, "copied_segments must be at least 1, not 0"),
        ({"segment_length": 0}, "segment_length must be at least 1, not 0"),
        ({"num_symbols": 0}, "num_symbols must be at least 1, not 0"),
        ({"num_fillers": 0}, "num_fillers must be at least 1, not 0"),
    ],
)
def test_refuses_what_cannot_be(sizes, complaint):
    with pytest.raises(ValueError, match=complaint):
        SegmentedCopy(**sizes)
