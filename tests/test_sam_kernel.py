"""The sequence kernel of SAM against its reference, as an op and in the model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_problems import wrong
from sam_problems import SHAPES, Shape, in_float32, kernel, op_arguments, problem, results
from tiers import but_for_long
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.models.controller import FeedForwardController, LSTMController
from memnets.models.sam import SAM
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.sam_sequence import sam_sequence_reference

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}
NUM_RESULTS = 11
FLOATING_RESULTS = [0, 1, 2, 3, 8, 9, 10]
LENGTHS = torch.tensor([3, 5, 0, 1])
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
        assert_close(results(kernel, given), results(sam_sequence_reference, given), **DOUBLE)

    @shapes
    def test_float64_from_the_model_s_start(self, shape):
        """Heads have read nothing: many slots are equal."""
        start = problem(shape._replace(held=0))
        nothing = torch.zeros_like(start.state.read_weights, requires_grad=True)
        given = start._replace(state=start.state._replace(read_weights=nothing))
        assert_close(results(kernel, given), results(sam_sequence_reference, given), **DOUBLE)

    @pytest.mark.parametrize("slots", [9, 40, 1000])
    def test_float64_over_many_steps(self, slots):
        given = problem(Shape(time=60, slots=slots, held=0), scale=0.5)
        assert_close(results(kernel, given), results(sam_sequence_reference, given), **DOUBLE)

    @pytest.mark.parametrize("shape", [Shape(batch=4), Shape(batch=4, slots=9), Shape(batch=4, layers=2, held=0)])
    def test_float64_with_lengths(self, shape):
        given = problem(shape)._replace(lengths=LENGTHS)
        assert_close(results(kernel, given), results(sam_sequence_reference, given), **DOUBLE)
        with torch.no_grad():
            assert_close(kernel(*given), sam_sequence_reference(*given), **DOUBLE)

    @pytest.mark.parametrize("name", ["odd", "full", "beyond_a_panel", "paper", "three_layers", "strided"])
    def test_float32_errs_no_more_than_the_reference(self, name):
        """Not with one word: all cosines are 1 or -1 bar rounding, which then decides what is read."""
        assert wrong(*in_float32(SHAPES[name]._replace(time=3))) == {}

    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(Shape(time=2), seeds=3)
        not_zero = [i for i, part in enumerate(exact[0]) if part.any()]
        assert len(not_zero) == len(exact[0]) - 1  # the first write weights have no part in anything
        for i in not_zero:
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    @pytest.mark.parametrize("lengths", [None, LENGTHS])
    def test_nothing_uninitialised_is_kept(self, lengths):
        given = problem(Shape(batch=4, layers=2))._replace(lengths=lengths)
        outputs = torch.ops.memnets.sam_sequence_forward(*op_arguments(given))
        assert all(output.isfinite().all() for output in outputs)

    @controllers
    def test_without_gradients(self, lstm):
        """Nothing is kept, and no result changes."""
        given = problem(lstm=lstm)
        with torch.no_grad():
            assert_close(kernel(*given), sam_sequence_reference(*given), **DOUBLE)

    def test_low_precision_is_computed_in_float32(self):
        given = problem(Shape(time=3), dtype=torch.bfloat16, scale=0.5)
        wide = given.map(lambda tensor: tensor.detach().float().requires_grad_())
        for got, want in zip(results(kernel, given), results(kernel, wide), strict=True):
            assert got.dtype == (torch.bfloat16 if want.is_floating_point() else torch.int64)
            assert_close(got.double(), want.double(), rtol=0.01, atol=0.01 * want.abs().max().item())


class TestSequence:
    def test_gradients(self):
        given = problem(Shape(2, 4, 2, 2, 5, 6, 2, 2, 2), scale=0.7)

        def call(*tensors):
            rest = iter(tensors)
            features, state = kernel(*given.map(lambda _: next(rest)))
            return features, *(part for part in state if part.is_floating_point())

        # `map` asks for the state's tensors before the inputs
        tensors = [t for t in (*given.state, *given.weights, given.inputs) if t is not None and t.is_floating_point()]
        assert torch.autograd.gradcheck(call, tensors, fast_mode=True)

    def test_two_halves_are_one_whole(self):
        given = problem(Shape(time=6, slots=20))

        def halves(inputs, state, weights, scheme, _):
            first, state = kernel(inputs[:, :2], state, weights, scheme)
            second, state = kernel(inputs[:, 2:], state, weights, scheme)
            return torch.cat([first, second], dim=1), state

        assert_close(results(halves, given), results(kernel, given), **DOUBLE)

    def test_gradients_can_be_taken_twice(self):
        """The backward pass puts back what was written: in a copy."""
        given = problem()
        features, _ = kernel(*given)
        one, two = (
            torch.autograd.grad(features.sum(), given.tensors, retain_graph=True, allow_unused=True) for _ in "ab"
        )
        assert_close(one, two, rtol=0, atol=0)

    def test_leaves_its_arguments(self):
        given = problem()
        before = [each.clone() for each in given.state]
        results(kernel, given)
        assert all(a.equal(b) for a, b in zip(given.state, before, strict=True))

    def test_sequences_are_independent_of_neighbours_and_threads(self):
        given = problem(Shape(batch=53), dtype=torch.float32)
        alone = results(kernel, given)
        torch.set_num_threads(2)
        together = results(kernel, given)
        assert all(a.equal(b) for a, b in zip(alone[:NUM_RESULTS], together[:NUM_RESULTS], strict=True))
        assert_close(alone, together, rtol=1e-4, atol=1e-4)  # each thread sums its gradients of the weights

    def test_of_equal_slots_the_lower_are_read(self):
        """A few rows many times over: whatever their place, they are as similar to a key."""
        given = problem(Shape(held=61, slots=61, heads=3, k=5, time=1, word=20), dtype=torch.float32)
        rows = given.state.memory[:, torch.arange(61) % 3]
        for function in (kernel, sam_sequence_reference):
            _, after = function(given.inputs, given.state._replace(memory=rows), *given[2:])
            untouched = torch.ones(3, 61, dtype=torch.bool).scatter(1, after.write_slots.flatten(1), False)
            for b, h in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
                found = [slot for slot in after.read_slots[b, h].tolist() if untouched[b, slot]]
                for first in range(3):
                    same = [slot for slot in found if slot % 3 == first]
                    lowest = [slot for slot in range(first, 61, 3) if untouched[b, slot]]
                    assert same == lowest[: len(same)]

    def test_nan_stays_where_it_is(self):
        given = problem(dtype=torch.float32)
        inputs = given.inputs.detach().clone()
        inputs[1, 2, 0] = torch.nan
        features, state = kernel(inputs, *given[1:])
        assert features[1, 2:].isnan().all()
        assert features[1, :2].isfinite().all()
        assert features[[0, 2]].isfinite().all()
        assert state.read_slots.max() < state.memory.shape[1]

    def test_keeps_no_memory_per_step(self):
        """Twice the slots in use, and no more is kept of a step."""
        kept = []
        for held in (1000, 2000):
            given = problem(Shape(held=held, slots=held))
            *_, emitted, weights, slots, replaced, memories = torch.ops.memnets.sam_sequence_forward(
                *op_arguments(given)
            )
            assert memories.numel() == 3 * held * 6  # once
            kept.append(sum(trace.nbytes for trace in (emitted, weights, slots, replaced)))
        assert kept[0] == kept[1]

    @pytest.mark.parametrize("batch", but_for_long([1, 3], lambda batch: batch == 3))
    @pytest.mark.parametrize("lstm", but_for_long([True, False], bool, ["feedforward", "lstm"].__getitem__))
    def test_torch_knows_the_op(self, batch, lstm):
        given = problem(Shape(batch=batch, time=2), lstm)
        kernel(*given)
        forward, backward = (
            getattr(torch.ops.memnets, f"sam_sequence_{way}").default for way in ("forward", "backward")
        )
        torch.library.opcheck(forward, op_arguments(given))
        torch.library.opcheck(forward, op_arguments(given, keep=False), test_utils=("test_schema", "test_faketensor"))
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in op_arguments(given)]
        outputs = forward(*plain)
        saved = (plain[0], plain[1], plain[9], plain[10], *plain[12:19], outputs[0], *outputs[NUM_RESULTS:])
        for gradients in ([None] * 7, [torch.ones_like(outputs[i]) for i in FLOATING_RESULTS]):
            for wanted in ((True, False), (False, True)):  # of inputs and memory
                torch.library.opcheck(backward, (*gradients, *saved, given.scheme.threshold, *wanted))

    def test_torch_knows_the_op_with_lengths(self):
        given = problem(Shape(batch=4))._replace(lengths=LENGTHS)
        torch.library.opcheck(torch.ops.memnets.sam_sequence_forward.default, op_arguments(given))

    def test_compiles_into_one_graph(self):
        given = problem(Shape(batch=2, time=2))
        kernel(*given)  # building isn't part of the graph

        def total(inputs):
            features, memory, *_ = torch.ops.memnets.sam_sequence_forward(inputs, *op_arguments(given)[1:])
            return features.sum() + memory.sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        gradients = [torch.autograd.grad(each(given.inputs), given.inputs)[0] for each in (compiled, total)]
        assert_close(*gradients, **DOUBLE)

    def test_autocast_changes_nothing(self):
        given = problem(dtype=torch.float32)
        plain = results(kernel, given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, given), plain, strict=True))

    def test_second_derivatives_are_refused(self):
        given = problem()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(kernel(*given)[0].sum(), given.inputs, create_graph=True)

    def test_shapes_are_checked_before_memory_is_touched(self):
        arguments = list(op_arguments(problem()))
        named = {2: "memory", 4: "write_weights", 5: "last_access", 6: "clock", 7: "read_slots", 8: "write_slots"}
        for i, name in named.items():
            wrong_one = [*arguments[:i], arguments[i][:1], *arguments[i + 1 :]]
            with pytest.raises(RuntimeError, match=f"sam_sequence: {name} must be"):
                torch.ops.memnets.sam_sequence_forward(*wrong_one)
        arguments[7] = arguments[7] + 1000
        with pytest.raises(RuntimeError, match="read_slots must lie between 0 and"):
            torch.ops.memnets.sam_sequence_forward(*arguments)


def tiny_sam(controller=LSTMController, **sizes):
    sizes = {"memory_size": 9, "word_size": 5, "num_heads": 2, "top_k": 3} | sizes
    model = SAM(Spec("vectors", 4, 3), partial(controller, hidden_size=6), **sizes)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model.double()


def gradients_of(model, inputs):
    model.zero_grad()
    outputs, state = model(inputs)
    (outputs.square().sum() + state.access.memory.sum() + state.access.write_weights.square().sum()).backward()
    return outputs, state, {name: weight.grad for name, weight in model.named_parameters()}


class TestSAM:
    @pytest.mark.parametrize("memory_size", [4, 9, 1000])
    @pytest.mark.parametrize(
        "controller", [LSTMController, FeedForwardController, partial(LSTMController, num_layers=2)]
    )
    def test_same_under_both_backends(self, controller, memory_size):
        model, inputs = tiny_sam(controller, memory_size=memory_size), torch.randn(3, 8, 4).double()
        with use_backend("cpu"):
            fused = gradients_of(model, inputs)
        with use_backend("reference"):
            assert_close(fused, gradients_of(model, inputs), **DOUBLE)

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_recomputing_changes_nothing_but_memory(self, backend):
        inputs, found = torch.randn(3, 7, 4).double(), []
        for recompute in (False, True):
            torch.manual_seed(1)
            model = tiny_sam()
            model.recompute = recompute
            with use_backend(backend):
                found.append(gradients_of(model, inputs))
        assert_close(*found, **DOUBLE)

    def test_what_it_cant_express_runs_step_by_step(self):
        class Watched(type(tiny_sam().cell.access)):
            pass

        model, inputs = tiny_sam(), torch.randn(3, 4, 4).double()
        model.cell.access.__class__ = Watched
        outputs, _ = model(inputs)
        with use_backend("reference"):
            assert model(inputs)[0].equal(outputs)
        with use_backend("cpu"), pytest.raises(BackendError, match="can't run sam_sequence: it has no Watched"):
            model(inputs)

    def test_kilobytes_kept_per_step_and_sequence(self):
        """At the default sizes, in a memory of a million slots."""
        model, inputs = SAM(Spec("vectors", 9, 8), memory_size=2**20), torch.rand(4, 41, 9)
        model(inputs)  # building isn't counted
        with torch.profiler.profile(profile_memory=True) as profile:
            outputs, _ = model(inputs)
        kept = sum(event.self_cpu_memory_usage for event in profile.events()) - outputs.nbytes
        assert 0.5 < kept / 1024 / inputs.shape[0] / inputs.shape[1] <= 9
