"""The sequence kernel against its reference, as an op and in the NTM."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_problems import (
    SCHEMES,
    SHAPES,
    Shape,
    alone,
    in_narrow,
    kernel,
    problem,
    results,
    widened,
    wrong,
)
from test_memory import LEGAL, addressing_of, names
from tiers import but_for_long
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.memory.addressing import Key
from memnets.models.controller import FeedForwardController, LSTMController
from memnets.models.ntm import NTM
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.ntm_sequence import HeadScheme, ntm_sequence, ntm_sequence_reference

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
controllers = pytest.mark.parametrize("lstm", [True, False], ids=["lstm", "feedforward"])


@pytest.fixture(scope="module", autouse=True)
def built():
    """The op exists once the kernel is loaded."""
    kernel(*problem())


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    @controllers
    def test_float64(self, shape, lstm):
        given = problem(shape, lstm)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: "-".join(map(str, scheme)))
    @controllers
    def test_float64_of_every_ablation(self, scheme, lstm):
        given = problem(Shape(batch=2, time=4), lstm, scheme)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @controllers
    @pytest.mark.parametrize("time", [6, 12, 20])
    def test_float64_beyond_the_steps_whose_memory_is_kept(self, time, lstm):
        given = problem(Shape(batch=14, time=time, read_heads=1), lstm, scale=0.3)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)
        given = given._replace(lengths=torch.arange(14).clamp_max(time))
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @controllers
    def test_float64_with_threads_and_one_memory_for_all_that_needs_no_gradient(self, lstm):
        """Two threads, several chunks each, sequences of all lengths."""
        given = problem(Shape(batch=37, time=13, read_heads=1, write_heads=1), lstm, scale=0.3)
        memory = given.state.memory.detach()[:1].expand(37, -1, -1)
        given = given._replace(state=given.state._replace(memory=memory), lengths=torch.arange(37) % 14)
        torch.set_num_threads(2)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @shapes
    @controllers
    def test_float32_errs_no_more_than_the_reference(self, shape, lstm):
        assert wrong(*in_float32(shape, lstm)) == {}

    @pytest.mark.parametrize("scale", [1e-3, 0.03, 1.0])
    def test_float32_at_small_and_large_values(self, scale):
        assert wrong(*in_float32(Shape(slots=40, hidden=20), scale=scale)) == {}

    @pytest.mark.long
    def test_float32_over_many_steps(self):
        shape = Shape(batch=2, time=60, hidden=24, slots=32, word=8)
        assert wrong(*in_float32(shape, scale=0.2, seeds=9)) == {}

    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(Shape(), seeds=3)
        for i in range(len(actual[0])):
            planted = [[part.clone() for part in results] for results in actual]
            for results_of_seed in planted:
                results_of_seed[i][-1] += 1e-4 * results_of_seed[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    def test_nothing_uninitialised_is_kept(self):
        for lstm in (True, False):
            outputs = torch.ops.memnets.ntm_sequence_forward(*op_arguments(problem(lstm=lstm)))
            assert all(output.isfinite().all() for output in outputs)

    @controllers
    def test_without_gradients(self, lstm):
        """Nothing is kept, and no result changes."""
        given = problem(lstm=lstm)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_low_precision_is_computed_in_float32(self, dtype):
        given = problem(dtype=dtype, scale=0.5)
        for got, want in zip(results(kernel, given), results(kernel, widened(given)), strict=True):
            assert got.dtype == dtype
            assert_close(got.double(), want, rtol=0.01, atol=0.01 * want.abs().max().item())


def in_float32(shape, lstm=True, scale=0.3, seeds=5):
    def make(seed):
        return problem(shape, lstm, dtype=torch.float32, scale=scale, seed=seed)

    return in_narrow(kernel, ntm_sequence_reference, make, seeds)


def op_arguments(given, keep=True):
    scheme = given.scheme
    tensors = (given.inputs, given.lengths, *given.state, *given.weights)
    return (*tensors, scheme.similarity or "none", *scheme[1:], keep)


class TestLengths:
    LENGTHS = torch.tensor([3, 5, 0, 1])

    @controllers
    def test_float64(self, lstm):
        given = problem(Shape(batch=4), lstm)._replace(lengths=self.LENGTHS)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @controllers
    def test_the_reference_runs_each_sequence_to_its_length(self, lstm):
        given = problem(Shape(batch=4), lstm)._replace(lengths=self.LENGTHS)
        features, state = ntm_sequence_reference(*given)
        for i, length in enumerate(self.LENGTHS.tolist()):
            assert not features[i, length:].any()
            if length:
                own_features, own_state = ntm_sequence_reference(*alone(given, i))
                assert_close(features[i : i + 1, :length], own_features)
            else:
                own_state = alone(given, i).state
            assert_close(
                [part[i : i + 1] for part in state if part is not None], [p for p in own_state if p is not None]
            )

    def test_steps_beyond_have_no_part(self):
        """Their inputs may be anything: neither results nor gradients see them."""
        given = problem(Shape(batch=4))._replace(lengths=self.LENGTHS)
        inputs = given.inputs.detach().clone()
        for i, length in enumerate(self.LENGTHS.tolist()):
            inputs[i, length:] = 100.0
        other = given._replace(inputs=inputs.requires_grad_())
        assert_close(results(kernel, given), results(kernel, other), **DOUBLE)

    def test_without_gradients(self):
        given = problem(Shape(batch=4))._replace(lengths=self.LENGTHS)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @pytest.mark.parametrize("function", [kernel, ntm_sequence_reference])
    def test_what_padding_holds_reaches_nothing(self, function):
        given = problem(Shape(batch=4))._replace(lengths=self.LENGTHS)
        padded = given.inputs.detach().clone()
        for row, length in enumerate(self.LENGTHS.tolist()):
            padded[row, length:] = torch.nan
        assert padded.isnan().any()
        found = results(function, given._replace(inputs=padded.requires_grad_()))
        for got, want in zip(found, results(function, given), strict=True):
            assert got.equal(want)

    @pytest.mark.parametrize("lengths", [[6, 1, 1], [-1, 1, 1]])
    def test_impossible_ones(self, lengths):
        with pytest.raises(ValueError, match=r"lengths must be between 0 and the 5 steps there are, not \["):
            ntm_sequence(*problem()._replace(lengths=torch.tensor(lengths)))

    def test_torch_knows_the_op(self):
        given = problem(Shape(batch=4))._replace(lengths=self.LENGTHS)
        torch.library.opcheck(torch.ops.memnets.ntm_sequence_forward.default, op_arguments(given))


class TestSequence:
    def test_gradients(self):
        given = problem(Shape(2, 3, 2, 2, 3, 2, 1, 2), scale=0.7)

        def call(*tensors):
            features, state = kernel(*given.with_tensors(tensors))
            return features, *state

        assert torch.autograd.gradcheck(call, given.tensors)

    def test_two_halves_are_one_whole(self):
        given = problem(Shape(time=6))

        def halves(inputs, state, weights, scheme, _):
            first, state = kernel(inputs[:, :2], state, weights, scheme)
            second, state = kernel(inputs[:, 2:], state, weights, scheme)
            return torch.cat([first, second], dim=1), state

        assert_close(results(halves, given), results(kernel, given), **DOUBLE)

    def test_sequences_are_independent_of_neighbours_and_threads(self):
        given = problem(Shape(batch=53), dtype=torch.float32)
        own = [alone(given, i) for i in (0, 52)]
        together = kernel(*given)[0]
        torch.set_num_threads(2)
        assert kernel(*given)[0].equal(together)
        for i, one in zip((0, 52), own, strict=True):
            assert kernel(*one)[0].equal(together[i : i + 1])

    def test_nan_reaches_no_gradient_of_a_neighbour(self):
        given = problem(dtype=torch.float32)
        inputs = given.inputs.detach().clone()
        inputs[1, 2, 0] = torch.nan
        inputs.requires_grad_()
        features, _ = kernel(inputs, *given[1:])
        (found,) = torch.autograd.grad(features[[0, 2]].sum(), inputs)
        assert found[[0, 2]].isfinite().all()

    def test_nan_stays_where_it_is(self):
        """A diverged sequence must be seen, and must not spoil its neighbours."""
        given = problem(dtype=torch.float32)
        inputs = given.inputs.detach().clone()
        inputs[1, 2, 0] = torch.nan
        features, state = kernel(inputs, *given[1:])
        assert features[1, 2:].isnan().all()
        assert features[1, :2].isfinite().all()
        assert features[[0, 2]].isfinite().all()
        assert state.memory[1].isnan().all()

    @pytest.mark.parametrize("batch", but_for_long([1, 3], lambda batch: batch == 3))
    @pytest.mark.parametrize("lstm", but_for_long([True, False], bool, ["feedforward", "lstm"].__getitem__))
    def test_torch_knows_the_op(self, batch, lstm):
        given = problem(Shape(batch=batch, time=2), lstm)
        kernel(*given)
        forward, backward = (
            getattr(torch.ops.memnets, f"ntm_sequence_{way}").default for way in ("forward", "backward")
        )
        torch.library.opcheck(forward, op_arguments(given))
        torch.library.opcheck(forward, op_arguments(given, keep=False), test_utils=("test_schema", "test_faketensor"))
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in op_arguments(given)]
        outputs = forward(*plain)
        saved = (plain[0], plain[1], plain[5], plain[6], *plain[8:15], outputs[0], *outputs[7:])
        for gradients in ([None] * 7, [torch.ones_like(output) for output in outputs[:7]]):
            for wanted in ((True, False), (False, True)):  # of inputs and memory
                torch.library.opcheck(backward, (*gradients, *saved, *plain[15:20], *wanted))

    def test_compiles_into_one_graph(self):
        given = problem(Shape(batch=2, time=2))
        kernel(*given)  # building isn't part of the graph

        def total(inputs):
            features, memory, *_ = torch.ops.memnets.ntm_sequence_forward(inputs, *op_arguments(given)[1:])
            return features.sum() + memory.sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        gradients = [torch.autograd.grad(each(given.inputs), given.inputs)[0] for each in (compiled, total)]
        assert_close(*gradients, **DOUBLE)


def gradients_of(model, inputs):
    model.zero_grad()
    outputs, state = model(inputs)
    (outputs.square().sum() + state.access.memory.sum() + state.access.write_weights.square().sum()).backward()
    return outputs, state, {name: weight.grad for name, weight in model.named_parameters()}


def tiny_ntm(controller=LSTMController, parts=tuple(LEGAL[0]), **replaced):
    made = partial(controller, hidden_size=6)
    model = NTM(
        Spec("vectors", 4, 3), made, addressing_of(parts, **replaced), memory_size=9, word_size=5, num_read_heads=2
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model.double()


class TestNTM:
    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    @pytest.mark.parametrize("controller", [LSTMController, FeedForwardController])
    def test_same_under_both_backends(self, parts, controller):
        model, inputs = tiny_ntm(controller, parts), torch.randn(3, 4, 4).double()
        with use_backend("cpu"):
            fused = gradients_of(model, inputs)
        with use_backend("reference"):
            assert_close(fused, gradients_of(model, inputs), **DOUBLE)

    def test_what_it_cant_express_runs_step_by_step(self):
        class Louder(Key):
            def emit(self, raw):
                return 2 * super().emit(raw)

        model, inputs = tiny_ntm(key=Louder("dot")), torch.randn(3, 4, 4).double()
        outputs, _ = model(inputs)
        with use_backend("reference"):
            assert model(inputs)[0].equal(outputs)
        with use_backend("cpu"), pytest.raises(BackendError, match="can't run ntm_sequence: it has no Louder"):
            model(inputs)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_recomputing_changes_nothing_but_memory(self, backend):
        inputs, found = torch.randn(3, 7, 4).double(), []
        for recompute in (False, True):
            torch.manual_seed(1)
            model = tiny_ntm()
            model.recompute = recompute
            with use_backend(backend):
                found.append(gradients_of(model, inputs))
        assert_close(*found, **DOUBLE)

    @pytest.mark.parametrize(("recompute", "most"), [(False, 15), (True, 5)])
    def test_kilobytes_kept_per_step_and_sequence(self, recompute, most):
        """At the paper's sizes; the memory alone has 10."""
        model, inputs = NTM(Spec("vectors", 9, 8), recompute=recompute), torch.rand(4, 41, 9)
        model(inputs)  # building isn't counted
        with torch.profiler.profile(profile_memory=True) as profile:
            outputs, _ = model(inputs)
        kept = sum(event.self_cpu_memory_usage for event in profile.events()) - outputs.nbytes
        assert 0.5 < kept / 1024 / inputs.shape[0] / inputs.shape[1] <= most

    def test_recomputing_keeps_the_backend_of_the_forward_pass(self):
        model, inputs = tiny_ntm(), torch.randn(3, 7, 4).double()
        model.recompute = True
        with use_backend("reference"):
            outputs, _ = model(inputs)
        outputs.sum().backward()
        assert model.output.weight.grad.any()

    def test_autocast_changes_nothing(self):
        given = problem(dtype=torch.float32)
        plain = results(kernel, given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, given), plain, strict=True))

    def test_second_derivatives_are_refused(self):
        given = problem()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(kernel(*given)[0].sum(), given.inputs, create_graph=True)

    @pytest.mark.parametrize(
        ("scheme", "told"),
        [(HeadScheme(None, strength=False), "give a similarity, or gate=False"), (HeadScheme(shift_width=4), "odd")],
    )
    def test_schemes_that_make_no_sense(self, scheme, told):
        with pytest.raises(ValueError, match=told):
            ntm_sequence(*problem()._replace(scheme=scheme))

    def test_shapes_are_checked_before_memory_is_touched(self):
        """Outside of tests nothing else looks at them."""
        arguments = list(op_arguments(problem()))
        places = {2: "memory", 4: "write_weights", 5: "read_vectors", 7: "cell", 10: "bias", 14: "interface_bias"}
        for i, name in places.items():
            for other in (arguments[i][:1], torch.cat([arguments[i]] * 2)):
                wrong_one = [*arguments[:i], other, *arguments[i + 1 :]]
                with pytest.raises(RuntimeError, match=f"ntm_sequence: {name} must be"):
                    torch.ops.memnets.ntm_sequence_forward(*wrong_one)

    def test_at_least_one_head_must_write(self):
        given = problem()
        state = given.state._replace(write_weights=given.state.write_weights[:, :0])
        with pytest.raises(ValueError, match="at least one head must write"):
            ntm_sequence(*given._replace(state=state))

    def test_hooks_are_called(self):
        model, calls = tiny_ntm(), []
        model.cell.access.register_forward_hook(lambda *_: calls.append(1))
        model(torch.randn(1, 4, 4).double())
        assert len(calls) == 4
