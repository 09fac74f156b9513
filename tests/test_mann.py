"""Least recently used access and the network around it: laws, loops in numpy, gradients in float64, extremes."""

from __future__ import annotations

from functools import partial

import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_memory import MEMORIES, addressing_of
from test_models import SPECS, TIME, disturb, inputs_of
from test_ntm import sigmoid, step_of_controller
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from memnets.memory.initial_memory import ConstantMemory, LearnedMemory
from memnets.memory.lru_access import LRUAccess, least_used
from memnets.models.base import watch
from memnets.models.controller import LSTMController
from memnets.models.mann import MANN

BATCH, SLOTS, WORD = 2, 5, 3


def access_of(parts=("key",), memory=LearnedMemory, heads=2, slots=SLOTS, decay=0.95):
    return LRUAccess(4, slots, WORD, heads, addressing_of(parts), memory(slots, WORD), decay)


def tiny_mann(parts=("key",), memory=LearnedMemory, hidden_size=4, slots=SLOTS, word=WORD):
    controller = partial(LSTMController, hidden_size=hidden_size)
    return disturb(MANN(SPECS["vectors"], controller, addressing_of(parts), memory, slots, word, 2, 0.9))


def set_gate(access, logit):
    """Give every head's write gate this logit, whatever the controller says."""
    with torch.no_grad():
        heads = access.num_read_heads
        access.interface.weight.view(heads, -1, 4)[:, -1] = 0
        access.interface.bias.view(heads, -1)[:, -1] = logit


class TestLeastUsed:
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
    def test_is_one_hot_at_the_least_in_order(self, levels, data):
        """Few levels, so that many slots are equal: then the first comes first."""
        heads = data.draw(st.integers(1, len(levels)))
        found = least_used(torch.tensor([levels, levels[::-1]]).float(), heads)
        for row, usage in zip(found, (levels, levels[::-1]), strict=True):
            expected = sorted(range(len(usage)), key=lambda slot: (usage[slot], slot))[:heads]
            assert row.argmax(-1).tolist() == expected
            assert row.sum(-1).eq(1).all()
            assert ((row == 0) | (row == 1)).all()


class TestAccess:
    def test_starts_unused(self):
        state = access_of(heads=3).initial_state(BATCH)
        assert state.memory.shape == (BATCH, SLOTS, WORD)
        assert state.usage.shape == (BATCH, SLOTS)
        assert state.read_weights.shape == state.write_weights.shape == (BATCH, 3, SLOTS)
        assert not any(part.any() for part in state[1:])

    @pytest.mark.parametrize("parts", [("key",), ("key", "strength"), ("key", "strength", "gate", "shift")])
    @pytest.mark.parametrize("heads", [1, 3])
    def test_equals_loops_in_numpy(self, parts, heads):
        access = disturb(access_of(parts, heads=heads)).double()
        state, outputs = access.initial_state(BATCH), torch.randn(6, BATCH, 4).double()
        expected = [part.detach().numpy() for part in state]
        for controller_output in outputs:
            read_vectors, state = access(controller_output, state)
            reads, expected = loop_over_heads(access, parts, controller_output.numpy(), expected)
            for found, value in zip((read_vectors, *state), (reads, *expected), strict=True):
                assert_close(found, torch.from_numpy(value), rtol=1e-9, atol=1e-12)

    def test_an_open_gate_writes_where_the_head_read(self):
        access = access_of(heads=1)
        set_gate(access, 50.0)
        _, state = access(torch.randn(BATCH, 4), access.initial_state(BATCH))
        _, after = access(torch.randn(BATCH, 4), state)
        assert_close(after.write_weights, state.read_weights)

    def test_a_closed_gate_puts_the_key_alone_in_the_least_used_slot(self):
        access = access_of(heads=2)
        set_gate(access, -50.0)
        usage = torch.tensor([[3.0, 1, 2, 0, 4]]).expand(BATCH, -1)
        state = access.initial_state(BATCH)._replace(usage=usage)
        controller_output = torch.randn(BATCH, 4)
        _, after = access(controller_output, state)
        key = torch.tanh(access.interface(controller_output).view(BATCH, 2, -1)[..., :WORD])
        assert_close(after.memory[:, [3, 1]], key)
        assert after.memory[:, [0, 2, 4]].equal(state.memory[:, [0, 2, 4]])

    def test_slots_are_taken_in_turn(self):
        """Where reads are spread evenly (a key of zeros), what was written longest ago is written over."""
        access = access_of(heads=2, slots=6)
        nn.init.zeros_(access.interface.weight)
        set_gate(access, -50.0)
        state, taken = access.initial_state(1), []
        for _ in range(6):
            _, state = access(torch.randn(1, 4), state)
            taken.append(state.write_weights[0].argmax(-1).tolist())
        assert taken == [[0, 1], [2, 3], [4, 5]] * 2

    def test_a_label_is_written_beside_what_it_names(self):
        """A sharp read finds the key just written; the next step, with an open gate, writes to that very slot."""
        access = access_of(("key", "strength"), heads=1)
        access.interface.bias.data[WORD] = 1e4
        set_gate(access, -50.0)
        first, second = torch.randn(2, BATCH, 4)
        _, state = access(first, access.initial_state(BATCH))
        assert_close(state.read_weights, torch.eye(SLOTS)[:1].expand(BATCH, 1, -1))
        set_gate(access, 50.0)
        _, after = access(second, state)
        keys = [torch.tanh(access.interface(each)[:, :WORD]) for each in (first, second)]
        assert_close(after.memory[:, 0], sum(keys))

    def test_starts_with_a_strength_that_tells_slots_apart(self):
        """Among 127 empty slots."""
        access = access_of(("key", "strength"), partial(ConstantMemory, value=0.0), heads=1, slots=128)
        set_gate(access, -50.0)
        access.interface.weight.data[WORD] = 0
        _, state = access(torch.randn(BATCH, 4), access.initial_state(BATCH))
        assert_close(state.read_weights[:, 0, 0], torch.full((BATCH,), 0.54), rtol=0, atol=0.01)

    @pytest.mark.parametrize("scale", [1.0, 1e4])
    @pytest.mark.parametrize("memory", [*MEMORIES, partial(ConstantMemory, value=0.0)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extremes_stay_finite(self, scale, memory, dtype):
        access = disturb(access_of(("key", "strength"), memory, slots=2)).to(dtype)
        with torch.no_grad():
            access.interface.weight.mul_(scale)
        state = access.initial_state(BATCH)
        for _ in range(20):
            read_vectors, state = access(scale * torch.randn(BATCH, 4, dtype=dtype), state)
        (read_vectors.sum() + state.memory.sum()).backward()
        assert all(part.isfinite().all() for part in (read_vectors, *state))
        assert access.interface.weight.grad.isfinite().all()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"heads": 0}, "num_read_heads must be at least 1"),
            ({"slots": 0}, "memory_size must be at least 1"),
            ({"heads": 3, "slots": 2}, "memory_size=2 must be at least num_read_heads=3"),
            ({"parts": ()}, "addressing.key is null, but the key is what"),
            ({"decay": 1.0}, "usage_decay must be at least 0 and below 1, not 1.0"),
        ],
    )
    def test_refusals(self, fields, message):
        with pytest.raises(ValueError, match=message):
            access_of(**fields)


class TestMANN:
    @pytest.mark.parametrize("parts", [("key",), ("key", "strength")])
    def test_equals_loops_in_numpy(self, parts):
        model, inputs = tiny_mann(parts).double(), torch.randn(2, 5, 4).double()
        outputs, state = model(inputs)
        expected, memory = loop_over_steps(model, parts, inputs.numpy())
        assert_close(outputs, torch.from_numpy(expected), rtol=1e-8, atol=1e-10)
        assert_close(state.access.memory, torch.from_numpy(memory), rtol=1e-8, atol=1e-10)

    def test_gradients(self):
        model = tiny_mann(("key", "strength"), hidden_size=2, slots=4, word=2).double()
        inputs, (names, values) = torch.randn(1, 3, 4).double(), zip(*model.named_parameters(), strict=True)
        values = [value.detach().clone().requires_grad_() for value in values]

        def run(*given):
            outputs, state = functional_call(model, dict(zip(names, given, strict=True)), (inputs,))
            return outputs, state.access.memory, state.access.read_weights, state.access.write_weights

        assert torch.autograd.gradcheck(run, values)

    def test_usage_has_no_gradient(self):
        """Nothing flows through the choice of a slot; a graph behind it would only cost memory."""
        _, state = tiny_mann()(inputs_of("vectors"))
        assert state.access.memory.requires_grad
        assert not state.access.usage.requires_grad

    def test_what_heads_emit_is_watched(self):
        model, inputs = tiny_mann(("key", "strength")), inputs_of("vectors")
        _, states, emitted = watch(model, inputs)
        assert {name: value.shape for name, value in emitted.items()} == dict.fromkeys(
            ["strength", "write_gate"], (TIME, len(inputs), 2)
        )
        before = torch.cat([model.initial_state(len(inputs)).access.read_weights[None], read_weights_of(states)])[:-1]
        where_read = (emitted["write_gate"][..., None] * before).sum(-1)
        least_used = 1 - emitted["write_gate"]
        written = torch.stack([state.access.write_weights for state in states]).sum(-1)
        assert_close(written, where_read + least_used)

    def test_recomputing_changes_nothing(self):
        inputs, model, gradients = inputs_of("vectors"), tiny_mann(), []
        for recompute in (False, True):
            model.recompute = recompute
            outputs, _ = model(inputs)
            gradients.append(torch.autograd.grad(outputs.square().sum(), list(model.parameters())))
        assert_close(*gradients)

    def test_zero_input_and_zero_memory_stay_finite(self):
        model = tiny_mann(memory=partial(ConstantMemory, value=0.0))
        outputs, _ = model(torch.zeros(2, 30, 4))
        outputs.sum().backward()
        assert outputs.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def read_weights_of(states):
    return torch.stack([state.access.read_weights for state in states])


def loop_over_heads(access, parts, controller_output, state):
    """Read vectors, and the state as arrays after one step: equations 5 to 8, slot by slot."""
    memory, usage, previous, _ = state
    layer = access.interface
    interface = controller_output @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    interface = interface.reshape(len(memory), access.num_read_heads, -1)
    key, gate, strength = np.tanh(interface[..., :WORD]), sigmoid(interface[..., -1]), np.ones(interface.shape[:2])
    if "strength" in parts:
        strength = np.log1p(np.exp(interface[..., WORD]))
    written, used, write_weights = memory.copy(), access.usage_decay * usage, np.zeros_like(previous)
    for b in range(len(memory)):
        free = sorted(range(memory.shape[1]), key=lambda slot: usage[b, slot])[: access.num_read_heads]
        written[b, free] = 0
        for h, n in np.ndindex(write_weights.shape[1:]):
            write_weights[b, h, n] = gate[b, h] * previous[b, h, n] + (1 - gate[b, h]) * (free[h] == n)
            written[b, n] += write_weights[b, h, n] * key[b, h]
    read_weights = naive.content_address(written, key, strength)
    if "gate" in parts:
        shift = np.exp(interface[..., WORD + 2 : -1])
        shift /= shift.sum(-1, keepdims=True)
        read_weights = naive.shift_sharpen(read_weights, previous, sigmoid(interface[..., WORD + 1]), shift)
    used += (read_weights + write_weights).sum(1)
    return naive.read(written, read_weights), [written, used, read_weights, write_weights]


def loop_over_steps(model, parts, inputs):
    """Outputs `[batch time output]` and the last memory, step by step in numpy."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    state = model.initial_state(len(inputs))
    access, controller = ([part.detach().numpy() for part in each] for each in (state.access, state.controller))
    read_vectors, outputs = state.read_vectors.detach().numpy(), []
    for step_inputs in inputs.swapaxes(0, 1):
        seen = np.concatenate([step_inputs, read_vectors.reshape(len(inputs), -1)], axis=1)
        hidden, controller = step_of_controller(weights, seen, controller)
        read_vectors, access = loop_over_heads(model.cell.access, parts, hidden, access)
        features = np.concatenate([hidden, read_vectors.reshape(len(inputs), -1)], axis=1)
        outputs.append(features @ weights["output.weight"].T + weights["output.bias"])
    return np.stack(outputs, axis=1), access[0]
