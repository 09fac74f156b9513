"""The NTM: under every ablation, against loops in numpy, and its gradients in float64."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from test_memory import LEGAL, MEMORIES, addressing_of, loop_over_heads, names
from test_models import SPECS, TIME, check_gradients, disturb, inputs_of
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.models.base import trace
from memnets.models.controller import FeedForwardController, GRUController, LSTMController
from memnets.models.ntm import NTM


def two_layers(input_size, hidden_size=4):
    return LSTMController(input_size, hidden_size, num_layers=2)


CONTROLLERS = [LSTMController, two_layers, GRUController, FeedForwardController]


class TestNTM:
    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    @pytest.mark.parametrize(
        ("controller", "memory"),
        list(product(CONTROLLERS, MEMORIES)),
        ids=lambda part: part.__name__,
    )
    def test_every_ablation_trains_every_parameter(self, parts, controller, memory):
        model = tiny_ntm(controller=controller, addressing=addressing_of(parts), memory=memory)
        check_gradients(model, inputs_of("vectors", time=4))

    @pytest.mark.parametrize("controller", CONTROLLERS)
    @pytest.mark.parametrize("parts", [["key", "strength", "gate", "shift", "sharpening"], ["key"], []], ids=names)
    def test_equals_loops_in_numpy(self, controller, parts):
        model = tiny_ntm(controller=controller, addressing=addressing_of(parts)).double()
        inputs = torch.randn(2, 4, 4).double()
        outputs, state = model(inputs)
        expected, memory = loop_over_steps(model, parts, inputs)
        assert_close(outputs, torch.from_numpy(expected), rtol=1e-8, atol=1e-10)
        assert_close(state.access.memory, torch.from_numpy(memory), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("controller", CONTROLLERS)
    def test_gradients(self, controller):
        model = tiny_ntm(controller=controller, hidden_size=2, memory_size=3, word_size=2).double()
        inputs, (parameter_names, values) = torch.randn(1, 3, 4).double(), zip(*model.named_parameters(), strict=True)
        values = [value.detach().clone().requires_grad_() for value in values]

        def run(*given):
            outputs, state = functional_call(model, dict(zip(parameter_names, given, strict=True)), (inputs,))
            return outputs, state.access.memory, state.access.read_weights

        assert torch.autograd.gradcheck(run, values)

    def test_zero_input_and_zero_memory_stay_finite(self):
        model = tiny_ntm(memory=lambda *sizes: MEMORIES[0](*sizes, value=0.0))
        outputs, _ = model(torch.zeros(2, 30, 4))
        outputs.sum().backward()
        assert outputs.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_defaults_are_of_the_paper_size(self):
        """Table 2 gives 67,561 parameters for copy with an LSTM controller; its exact wiring isn't published."""
        num_parameters = sum(parameter.numel() for parameter in NTM(Spec("vectors", 9, 8)).parameters())
        assert num_parameters == pytest.approx(67_561, rel=0.1)

    def test_trace_shows_every_step(self):
        model, inputs = tiny_ntm(), inputs_of("vectors")
        outputs, states = trace(model, inputs)
        whole, final = model(inputs)
        assert len(states) == TIME
        assert_close(outputs, whole)
        assert_close(states[-1].access.memory, final.access.memory)


def tiny_ntm(controller=LSTMController, addressing=None, memory=MEMORIES[0], hidden_size=4, memory_size=5, word_size=3):
    made = partial(controller, hidden_size=hidden_size)
    return disturb(NTM(SPECS["vectors"], made, addressing, memory, memory_size, word_size, 2, 1))


def loop_over_steps(model, parts, inputs):
    """Outputs `[batch time output]` and the last memory of an NTM, step by step in numpy."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    state = model.initial_state(len(inputs))
    access, controller = state.access, [part.detach().numpy() for part in state.controller]
    read_vectors, outputs = state.read_vectors.detach().numpy(), []
    for step_inputs in inputs.numpy().swapaxes(0, 1):
        seen = np.concatenate([step_inputs, read_vectors.reshape(len(inputs), -1)], axis=1)
        hidden, controller = step_of_controller(weights, seen, controller)
        read_vectors, *after = loop_over_heads(model.cell.access, parts, torch.from_numpy(hidden), access)
        access = type(access)(*map(torch.from_numpy, after))
        features = np.concatenate([hidden, read_vectors.reshape(len(inputs), -1)], axis=1)
        outputs.append(features @ weights["output.weight"].T + weights["output.bias"])
    return np.stack(outputs, axis=1), access.memory.numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step_of_controller(weights, seen, state):
    """Output and state of the controller whose weights there are: a tanh layer, a GRU, or layers of LSTM."""
    prefix = "cell.controller."
    if not state:
        return np.tanh(seen @ weights[prefix + "layer.weight"].T + weights[prefix + "layer.bias"]), state
    if len(state) == 1:
        (hidden,) = state
        given, own = gates_of(weights, prefix + "cell.", seen, hidden)
        reset, update = (sigmoid(given[i] + own[i]) for i in (0, 1))
        hidden = (1 - update) * np.tanh(given[2] + reset * own[2]) + update * hidden
        return hidden, [hidden]
    after = []
    for layer, (hidden, cell) in enumerate(zip(*(part.swapaxes(0, 1) for part in state), strict=True)):
        given, own = gates_of(weights, f"{prefix}layers.{layer}.", seen, hidden)
        insert, forget, candidate, emit = (a + b for a, b in zip(given, own, strict=True))
        cell = sigmoid(forget) * cell + sigmoid(insert) * np.tanh(candidate)
        seen = sigmoid(emit) * np.tanh(cell)
        after.append((seen, cell))
    return seen, [np.stack(part, axis=1) for part in zip(*after, strict=True)]


def gates_of(weights, prefix, seen, hidden):
    """What input and hidden vector add to each gate of a cell."""
    given = seen @ weights[prefix + "weight_ih"].T + weights[prefix + "bias_ih"]
    own = hidden @ weights[prefix + "weight_hh"].T + weights[prefix + "bias_hh"]
    num_gates = given.shape[1] // hidden.shape[1]
    return np.split(given, num_gates, axis=1), np.split(own, num_gates, axis=1)
