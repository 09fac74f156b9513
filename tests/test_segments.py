"""Memories from segment to segment: the cache is a longer window, recurrent tokens pass as the paper has it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_memory_transformer import TIME, WINDOW, tiny, tokens_of
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.memory.rotary import Rotary, place_free
from memnets.memory.slots.base import unit_length
from memnets.memory.slots.recurrent_tokens import RecurrentTokens
from memnets.memory.slots.segment_cache import SegmentCache

CAPACITY = 5


def cached(**options):
    return tiny(partial(SegmentCache, capacity=CAPACITY, **options))


class TestSegmentCache:
    @pytest.mark.parametrize("differentiable", [True, False])
    def test_sees_what_a_longer_window_sees(self, differentiable):
        longer, model = tiny(None, window=WINDOW + CAPACITY), cached(differentiable=differentiable)
        model.load_state_dict(longer.state_dict())
        assert_close(model(tokens_of())[0], longer(tokens_of())[0], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("differentiable", [True, False])
    def test_gradient_through_the_cache_is_a_switch(self, differentiable):
        longer, model = tiny(None, window=WINDOW + CAPACITY), cached(differentiable=differentiable)
        model.load_state_dict(longer.state_dict())
        for each in (longer, model):
            each(tokens_of())[0].square().sum().backward()
        same = [
            torch.allclose(one.grad, other.grad, rtol=1e-9, atol=1e-12)
            for one, other in zip(longer.parameters(), model.parameters(), strict=True)
        ]
        assert all(same) if differentiable else not all(same)

    def test_keeps_the_newest_whatever_is_read(self):
        model, state = cached(), None
        inputs = tokens_of(time=28)
        for first in range(0, inputs.shape[1], 2):
            _, state = model(inputs[:, first : first + 2], state)
            read = first + 2
            left = max(read - (WINDOW - 1), 0)
            kept = named_tensors(state.layers[0].memory)
            assert kept["written"].tolist() == [left] * 3
            empty = kept["keys"].abs().amax((1, 3)) == 0
            assert empty.sum(1).tolist() == [max(CAPACITY - left, 0)] * 3

    def test_refuses_no_capacity(self):
        with pytest.raises(ValueError, match="capacity must be at least 1, not 0"):
            tiny(partial(SegmentCache, capacity=0))


class TestRecurrentTokens:
    def test_a_segment_passes_as_one_sequence_between_two_memories(self):
        """[memory; segment; memory] through every layer, with loops: the outputs, and what is written."""
        model = tiny(partial(RecurrentTokens, num_tokens=2), token_shift=None)
        inputs = tokens_of(batch=1, time=WINDOW)
        outputs, state = model(inputs)
        memory = model.memory_tokens.tokens.detach()
        segment = model.input(inputs)[0].detach()
        rows = torch.cat([memory, segment, memory])
        for block in model.blocks:
            rows = layer_by_hand(block, rows, num_tokens=2)
        assert_close(outputs[0], model.output(model.norm(rows[2:-2])), rtol=1e-6, atol=1e-8)
        assert_close(state.tokens.tokens[0], model.memory_tokens.norm(rows[-2:]), rtol=1e-6, atol=1e-8)

    def test_written_at_segment_ends_alone(self):
        model, state = tiny(partial(RecurrentTokens, num_tokens=2, segment_length=3)), None
        inputs, before = tokens_of(), None
        for step in range(TIME):
            _, state = model(inputs[:, step : step + 1], state)
            tokens = state.tokens.tokens
            changed = before is not None and not torch.equal(tokens, before)
            assert changed == ((step + 1) % 3 == 0)
            before = tokens

    def test_carries_what_no_window_reaches(self):
        """The first step of 23 changes the last output, through tokens alone, with its gradient."""
        model = tiny(partial(RecurrentTokens, num_tokens=2), num_layers=1, token_shift=None)
        inputs = tokens_of(batch=1)
        changed = inputs.clone()
        changed[0, 0] = (inputs[0, 0] + 1) % 11
        assert (model(changed)[0][0, -1] - model(inputs)[0][0, -1]).abs().max() > 1e-9
        plain = tiny(None, num_layers=1, token_shift=None)
        assert plain(changed)[0][0, -1].equal(plain(inputs)[0][0, -1])
        model(inputs)[0][0, -1].square().sum().backward()
        assert model.input.embedding.weight.grad[inputs[0, 0]].abs().max() > 0

    @pytest.mark.parametrize(("num_tokens", "length"), [(0, 3), (2, 0), (2, WINDOW + 1)])
    def test_refuses_what_the_window_cannot_hold(self, num_tokens, length):
        with pytest.raises(ValueError, match=f"1 <= segment_length <= window, not {num_tokens}, {length} and {WINDOW}"):
            tiny(partial(RecurrentTokens, num_tokens=num_tokens, segment_length=length))


def layer_by_hand(block, rows, num_tokens):
    """A layer over [memory; segment; memory]: who may see whom, one query at a time."""
    attention, rotary = block.attention, Rotary(block.attention.sizes.head_size)
    last, words = len(rows) - num_tokens, attention.sizes.head_size
    query, keys, values = (
        part.detach().view(len(rows), -1, words).transpose(0, 1)
        for part in attention.project(block.attention_norm(rows)).split(attention.widths, dim=-1)
    )
    query, keys = unit_length(query) * attention.log_scale.exp().detach(), unit_length(keys)
    attended = torch.zeros_like(query)
    for head, row in np.ndindex(*query.shape[:2]):
        seen = range(num_tokens) if row < num_tokens else range(len(rows) if row >= last else row + 1)
        step = min(row, last) - num_tokens
        asks = query[head, row] if row < num_tokens else turned(rotary, query[head, row], step)
        scores = torch.stack(
            [
                asks @ (turned(rotary, keys[head, i], i - num_tokens) if num_tokens <= i < last and row >= num_tokens
                        else keys[head, i] if row < num_tokens else place_free(keys[head, i]))
                for i in seen
            ]
        )  # fmt: skip
        attended[head, row] = scores.softmax(0) @ values[head, list(seen)]
    hidden = rows + attention.output(attended.transpose(0, 1).flatten(1))
    return (hidden + block.feed_forward(hidden)).detach()


def turned(rotary, vector, step):
    return rotary(vector.view(1, 1, 1, -1), step).flatten()
