"""What crosses rooms: batches are cut and moved whole, trees of tensors keep their shape, ratios add up."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from memnets.contracts import Batch, Ratio, Spec, Story, detach, map_tensors, named_tensors, reset_rows

Pair = namedtuple("Pair", "first second")


def sequence_batch(length=5, **extra):
    steps = torch.arange(2 * length).view(2, length)
    return Batch(steps[..., None].float(), steps, steps % 3 > 0, **extra)


def story_batch():
    story = Story(torch.ones(2, 4, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
    return Batch(story, torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool))


class TestBatch:
    @pytest.mark.parametrize("length", [1, 2, 5, 9])
    def test_windows_join_to_the_whole(self, length):
        whole = sequence_batch(groups=torch.arange(10).view(2, 5))
        windows = list(whole.windows(length))
        assert all(window.mask.shape[1] <= length for window in windows)
        for field in ("inputs", "targets", "mask", "groups"):
            assert torch.cat([getattr(window, field) for window in windows], 1).equal(getattr(whole, field))

    @pytest.mark.parametrize("starts", [None, torch.tensor([True, False])])
    def test_only_the_first_window_begins_rows(self, starts):
        first, *rest = sequence_batch(starts=starts).windows(2)
        assert first.starts is starts or first.starts.equal(starts)
        assert [window.starts.tolist() for window in rest] == [[False, False]] * 2

    def test_whole_when_not_cut(self):
        batch, story = sequence_batch(), story_batch()
        assert list(batch.windows(None)) == [batch]
        assert list(story.windows(2)) == [story]

    @pytest.mark.parametrize("batch", [sequence_batch(), story_batch()], ids=["sequence", "story"])
    def test_to_moves_every_tensor(self, batch):
        moved = batch.to(torch.device("meta"))
        assert moved.size == batch.size == 2
        assert type(moved.inputs) is type(batch.inputs)
        tensors = named_tensors([getattr(moved, field.name) for field in fields(moved)])
        assert len(tensors) >= 3
        assert all(tensor.device.type == "meta" for tensor in tensors.values())

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            sequence_batch().mask = None
        with pytest.raises(FrozenInstanceError):
            Spec("tokens", 3, 3).input_size = 4


class TestTrees:
    tree = Pair([torch.ones(2, 1), None], {"a": torch.zeros(2), "b": (), "c": Pair(torch.ones(2, 2), (torch.ones(2),))})

    def test_map_keeps_the_shape(self):
        doubled = map_tensors(lambda tensor: tensor * 2, self.tree)
        assert isinstance(doubled, Pair)
        assert isinstance(doubled.second["c"], Pair)
        assert isinstance(doubled.first, list)
        assert doubled.first[1] is None
        assert doubled.second["b"] == ()
        assert all((tensor == 2).all() or (tensor == 0).all() for tensor in named_tensors(doubled).values())

    def test_map_over_several_trees(self):
        total = map_tensors(torch.add, self.tree, self.tree)
        for name, tensor in named_tensors(self.tree).items():
            assert named_tensors(total)[name].equal(2 * tensor)

    def test_map_refuses_other_shapes_and_things(self):
        with pytest.raises(ValueError, match="shorter"):
            map_tensors(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))
        with pytest.raises(TypeError, match="not str: 'x'"):
            map_tensors(torch.neg, [torch.ones(1), "x"])

    def test_names_are_paths(self):
        assert list(named_tensors(self.tree)) == ["first.0", "second.a", "second.c.first", "second.c.second.0"]
        assert named_tensors(()) == {}

    def test_detach_cuts_the_graph(self):
        state = Pair(torch.ones(1, requires_grad=True) * 2, ())
        assert state.first.requires_grad
        assert not detach(state).first.requires_grad

    def test_reset_rows_takes_marked_rows_only(self):
        old, fresh = (Pair(torch.full((2, 3, 2), value), [torch.full((2,), value)]) for value in (1.0, 9.0))
        mixed = reset_rows(old, fresh, torch.tensor([False, True]))
        assert mixed.first[:, 0, 0].tolist() == [1, 9]
        assert mixed.second[0].tolist() == [1, 9]


def test_ratio_is_sum_and_count():
    ratio = Ratio(torch.tensor(3.0), torch.tensor(4.0))
    assert (ratio.total, ratio.count) == (3, 4)
    assert named_tensors(ratio).keys() == {"total", "count"}
