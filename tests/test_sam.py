"""SAM: against a memory of all slots in numpy, its cost, its laws, its gradients in float64, and extreme values."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sam_loops import loop_over_steps
from test_models import SPECS, check_gradients, disturb, inputs_of
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import Spec, named_tensors
from memnets.memory.sam_access import SAMAccess
from memnets.models.base import trace
from memnets.models.controller import FeedForwardController, GRUController, LSTMController
from memnets.models.sam import SAM
from memnets.ops.backend import use_backend
from memnets.ops.lru_write import lru_write
from memnets.ops.sam_sequence import SAMSequenceState, last_access_after, sam_sequence_reference
from memnets.ops.sequence import SequenceWeights
from memnets.ops.sparse_content import sparse_content_address

BATCH, TIME, HEADS, K, WORD = 2, 9, 2, 2, 3
CONTROLLERS = [LSTMController, GRUController, FeedForwardController]
MEMORY_SIZES = [2, 3, 5, 11, 1000]
"""As many slots as heads; soon full; full in mid-sequence; never full."""


def tiny_sam(memory_size=5, controller=LSTMController, hidden_size=4, scale=1.0, seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {"word_size": WORD, "num_heads": HEADS, "top_k": K} | sizes
    model = disturb(SAM(SPECS["vectors"], partial(controller, hidden_size=hidden_size), memory_size, **sizes))
    with torch.no_grad():
        model.cell.access.interface.weight.mul_(3 * scale)
    return model


class TestAgainstAllSlots:
    @pytest.mark.parametrize("memory_size", MEMORY_SIZES)
    @pytest.mark.parametrize("controller", CONTROLLERS)
    @pytest.mark.parametrize("backend", ["reference", "auto"])
    def test_outputs_and_memories(self, backend, controller, memory_size):
        model, inputs = tiny_sam(memory_size, controller).double(), inputs_of("vectors", BATCH, 30).double()
        with use_backend(backend):
            outputs, state = model(inputs)
        expected, memories = loop_over_steps(model, inputs)
        assert_close(outputs, torch.from_numpy(expected), rtol=1e-8, atol=1e-10)
        for b, dense in enumerate(memories):
            held = state.access.memory[b].detach().numpy()
            np.testing.assert_allclose(dense.memory[: len(held)], held, rtol=1e-8, atol=1e-10)
            assert not dense.memory[len(held) :].any()
            assert dense.last_access[: len(held)].tolist() == state.access.last_access[b].tolist()
            assert not dense.last_access[len(held) :].any()

    @pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
    def test_thresholds(self, threshold):
        """What is used only a little is soon written to again; a slot that nobody ever uses enough, at every step."""
        model = tiny_sam(7, threshold=threshold).double()
        inputs = inputs_of("vectors", BATCH, 20).double()
        assert_close(model(inputs)[0], torch.from_numpy(loop_over_steps(model, inputs)[0]), rtol=1e-8, atol=1e-10)

    def test_all_heads_and_slots(self):
        model = tiny_sam(4, num_heads=4, top_k=4).double()
        inputs = inputs_of("vectors", BATCH, 12).double()
        assert_close(model(inputs)[0], torch.from_numpy(loop_over_steps(model, inputs)[0]), rtol=1e-8, atol=1e-10)


class TestCost:
    def test_does_not_depend_on_the_slots(self):
        """The same numbers, and the same memory held, in a thousand slots as in a million."""
        inputs = inputs_of("vectors", BATCH, 20)
        (few, small), (many, large) = (tiny_sam(memory_size=size)(inputs) for size in (2**10, 2**20))
        assert many.equal(few)
        assert_close(named_tensors(large), named_tensors(small), rtol=0, atol=0)
        assert small.access.memory.shape[1] == 20 * (HEADS + K)

    def test_holds_no_more_than_there_is(self):
        _, state = tiny_sam(memory_size=11)(inputs_of("vectors", BATCH, 20))
        assert state.access.memory.shape[1] == 11


class TestOp:
    @pytest.mark.parametrize("memory_size", [5, 1000])
    @pytest.mark.parametrize("controller", [LSTMController, FeedForwardController])
    def test_is_what_the_model_does_step_by_step(self, controller, memory_size):
        model, inputs = tiny_sam(memory_size, controller).double(), inputs_of("vectors", BATCH).double()
        model.output = torch.nn.Identity()
        with use_backend("reference"):
            outputs, state = model(inputs)
        features, after = sam_sequence_reference(*arguments(model, inputs))
        assert_close(features, outputs, rtol=1e-12, atol=1e-14)
        assert_close(list(after[:7]), list(state.access), rtol=1e-12, atol=1e-14)

    def test_each_sequence_runs_to_its_length(self):
        model, inputs = tiny_sam(), inputs_of("vectors", 3)
        given = arguments(model, inputs)
        features, state = sam_sequence_reference(*given, torch.tensor([4, 0, TIME]))
        for i, length in enumerate((4, 0, TIME)):
            own, start = (SAMSequenceState(*(each[i : i + 1] for each in part)) for part in (state, given[1]))
            assert not features[i, length:].any()
            if length:
                alone, start = sam_sequence_reference(inputs[i : i + 1, :length], start, *given[2:])
                assert_close(features[i : i + 1, :length], alone)
            held = start.memory.shape[1]
            assert not own.memory[:, held:].any()
            own = own._replace(memory=own.memory[:, :held], last_access=own.last_access[:, :held])
            assert_close(list(own), list(start))


def arguments(model, inputs):
    """Those of the sequence op for a model's cell."""
    state, layer = model.initial_state(len(inputs)), model.cell.controller
    interface = model.cell.access.interface.weight, model.cell.access.interface.bias
    if isinstance(layer, FeedForwardController):
        weights = SequenceWeights(layer.layer.weight, None, layer.layer.bias, None, None, *interface)
        hidden = None, None
    else:
        (cell,), hidden = layer.cells, state.controller
        bias = cell.bias_ih + cell.bias_hh
        weights = SequenceWeights(cell.weight_ih, cell.weight_hh, bias, None, None, *interface)
    full = SAMSequenceState(*state.access, state.read_vectors, *hidden)
    return inputs, full, weights, model.cell.access.scheme


class TestLaws:
    def write(self, **replaced):
        given = {
            "memory": torch.randn(1, 6, WORD).double(),
            "last_access": torch.tensor([[3, 2, 5, 2, 1, 4]]),
            "read_weights": torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).double(),
            "read_slots": torch.tensor([[[0, 5], [5, 4]]]),
            "interpolation_gate": torch.tensor([[0.3, 0.6]]).double(),
            "write_gate": torch.tensor([[0.9, 0.8]]).double(),
            "add": torch.randn(1, HEADS, WORD).double(),
        } | replaced
        return given, *lru_write(**given)

    def test_heads_take_slots_of_their_own_the_oldest_first(self):
        assert self.write()[3][0, :, -1].tolist() == [4, 1]

    def test_without_writing_only_the_oldest_are_erased(self):
        given, memory, _, _ = self.write(write_gate=torch.zeros(1, HEADS).double())
        assert not memory[0, [4, 1]].any()
        assert memory[0, [0, 2, 3, 5]].equal(given["memory"][0, [0, 2, 3, 5]])

    def test_gate_1_adds_to_what_was_read(self):
        given, memory, _, _ = self.write(interpolation_gate=torch.ones(1, HEADS).double())
        assert_close(memory[0, 0], given["memory"][0, 0] + 0.9 * 0.25 * given["add"][0, 0])
        assert_close(memory[0, 4], 0.8 * 0.5 * given["add"][0, 1])
        assert not memory[0, 1].any()

    def test_gate_0_writes_to_the_oldest_alone(self):
        given, memory, _, _ = self.write(interpolation_gate=torch.zeros(1, HEADS).double())
        assert_close(memory[0, 4], 0.9 * given["add"][0, 0])
        assert memory[0, [0, 2, 3, 5]].equal(given["memory"][0, [0, 2, 3, 5]])

    def test_a_slot_counts_as_used_by_all_heads_together(self):
        weights, slots = torch.tensor([[[0.5, 0.3], [0.3, 0.2]]]), torch.tensor([[[0, 1], [1, 3]]])
        after = last_access_after(torch.tensor([[1, 2, 3, 4]]), torch.tensor([9]), weights, slots, threshold=0.55)
        assert after.tolist() == [[1, 9, 3, 4]]

    def test_of_equal_rows_the_lower_are_read(self):
        for slots in range(1, 40):
            memory = torch.randn(1, 1, 20).expand(1, slots, 20)
            _, found = sparse_content_address(memory, torch.randn(1, 1, 20), torch.ones(1, 1), min(3, slots))
            assert found.flatten().tolist() == list(range(min(3, slots)))

    def test_weights_are_a_distribution(self):
        _, states = trace(tiny_sam(), inputs_of("vectors"))
        for state in states:
            assert_close(state.access.read_weights.sum(-1), torch.ones(3, HEADS))
            assert (state.access.write_weights.sum(-1) <= 1).all()
            assert state.access.read_slots.max() < 5

    def test_slots_are_used_from_the_first_on(self):
        """What the memory's growing rests on."""
        _, states = trace(tiny_sam(1000), inputs_of("vectors", time=20))
        used = [(state.access.last_access > 0).sum(1) for state in states]
        assert all((before <= after).all() for before, after in pairwise(used))
        assert all((after - before).max() <= HEADS + K for before, after in pairwise(used))
        for state, num in zip(states, used, strict=True):
            assert all(row[:n].all() for row, n in zip(state.access.last_access, num, strict=True))


class TestRestart:
    def test_marked_rows_begin_and_others_go_on(self):
        model, inputs = tiny_sam(1000), inputs_of("vectors")
        _, state = model(inputs)
        starts = torch.tensor([True, False, False])
        outputs, _ = model(inputs, model.restart(state, starts))
        assert_close(outputs[starts], model(inputs)[0][starts])
        assert_close(outputs[~starts], model(inputs, state)[0][~starts])

    def test_holds_what_is_used(self):
        """A stream of short sequences doesn't let the memory grow for ever."""
        model, inputs, state = tiny_sam(100_000), inputs_of("vectors"), None
        for _ in range(5):
            _, state = model(inputs, state)
            assert state.access.memory.shape[1] <= K + TIME * (HEADS + K)
            state = model.restart(state, torch.ones(len(inputs), dtype=torch.bool))
        assert state.access.memory.shape[1] == K


class TestGradients:
    @pytest.mark.parametrize("controller", CONTROLLERS)
    def test_every_parameter_gets_one(self, controller):
        check_gradients(tiny_sam(controller=controller), inputs_of("vectors", time=12))

    @pytest.mark.parametrize("backend", ["reference", "auto"])
    @pytest.mark.parametrize("memory_size", [3, 1000])
    def test_in_float64(self, memory_size, backend):
        model = tiny_sam(memory_size, hidden_size=2, word_size=2, seed=3).double()
        inputs, named = inputs_of("vectors", 1, 5).double(), dict(model.named_parameters())
        values = [value.detach().clone().requires_grad_() for value in named.values()]

        def run(*given):
            with use_backend(backend):
                outputs, state = functional_call(model, dict(zip(named, given, strict=True)), (inputs,))
            return outputs, state.access.memory, state.access.read_weights, state.access.write_weights

        assert torch.autograd.gradcheck(run, values, fast_mode=True)


class TestBadInput:
    @pytest.mark.parametrize(("sizes", "told"), [((1, 3, 2, 1), "num_heads"), ((3, 3, 2, 4), "top_k")])
    def test_more_heads_or_reads_than_slots(self, sizes, told):
        with pytest.raises(ValueError, match=f"{told} must be at most memory_size, which is"):
            SAMAccess(4, *sizes, threshold=0.005)

    def test_more_heads_than_slots_in_the_op(self):
        zeros = torch.zeros(1, 2, 1)
        with pytest.raises(ValueError, match="2 heads need as many slots, not 1"):
            lru_write(zeros[:, :1], zeros[:, :1, 0].long(), zeros, zeros.long(), zeros[..., 0], zeros[..., 0], zeros)

    @given(
        scale=st.floats(-6, 5),
        seed=st.integers(0, 99),
        dtype=st.sampled_from([torch.float32, torch.bfloat16]),
        backend=st.sampled_from(["reference", "auto"]),
    )
    def test_extreme_parameters_give_finite_values_and_gradients(self, scale, seed, dtype, backend):
        model = tiny_sam(scale=10.0**scale, seed=seed).to(dtype)
        with use_backend(backend):
            outputs, _ = model(inputs_of("vectors", time=12, seed=seed).to(dtype))
            outputs.float().square().sum().backward()
        assert outputs.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_autocast_keeps_the_memory_s_precision(self):
        with torch.autocast("cpu", torch.bfloat16), use_backend("reference"):
            outputs, state = tiny_sam()(inputs_of("vectors"))
        outputs.float().sum().backward()
        assert state.access.memory.dtype == torch.float32
        assert outputs.isfinite().all()

    def test_zero_inputs(self):
        model = tiny_sam()
        outputs, _ = model(torch.zeros(2, 30, 4))
        outputs.sum().backward()
        assert outputs.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_nan_stays_in_its_sequence(self):
        model, inputs = tiny_sam(), inputs_of("vectors")
        inputs[1, 2] = torch.nan
        outputs, state = model(inputs)
        assert outputs[1, 2:].isnan().all()
        assert outputs[[0, 2]].isfinite().all()
        assert state.access.read_slots.max() < 5

    @pytest.mark.parametrize("time", [1, 2])
    def test_few_steps_of_many_slots(self, time):
        outputs, _ = SAM(Spec("vectors", 4, 3))(inputs_of("vectors", time=time))
        assert outputs.isfinite().all()
