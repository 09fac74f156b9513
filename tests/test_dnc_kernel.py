"""The DNC's sequence kernel against its reference, as an op and in the DNC, and what it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_problems import (
    DNC_SCHEMES,
    DNC_SHAPES,
    Shape,
    alone,
    dnc_problem,
    in_narrow,
    results,
    widened,
    wrong,
)
from test_dnc import LEGAL, tiny_dnc
from test_kernels import DOUBLE, controllers
from test_memory import names
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

from memnets.contracts import Spec, named_tensors
from memnets.memory.dnc_addressing import TemporalLink
from memnets.models.controller import FeedForwardController, LSTMController
from memnets.models.dnc import DNC
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.dnc_sequence import DNCScheme, dnc_sequence, dnc_sequence_reference

ALL = DNCScheme(True, True, True, True)
LENGTHS = torch.tensor([3, 5, 0, 1])
NUM_TENSORS, NUM_RESULTS = 18, 10
shapes = pytest.mark.parametrize("shape", DNC_SHAPES.values(), ids=DNC_SHAPES)
schemes = pytest.mark.parametrize("scheme", DNC_SCHEMES, ids=lambda scheme: "-".join(map(str, scheme)))


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return dnc_sequence(*given)


def of_four(scheme=ALL, **sizes):
    return dnc_problem(Shape(batch=4, write_heads=1, **sizes), scheme=scheme)


def check(given):
    """Equal to the reference, with gradients and without."""
    assert_close(results(kernel, given), results(dnc_sequence_reference, given), **DOUBLE)
    with torch.no_grad():
        assert_close(kernel(*given), dnc_sequence_reference(*given), **DOUBLE)


@pytest.fixture(scope="module", autouse=True)
def built():
    """The op exists once the kernel is loaded."""
    kernel(*of_four())


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    @controllers
    def test_float64(self, shape, lstm):
        check(dnc_problem(shape, lstm))

    @schemes
    @controllers
    def test_float64_of_every_ablation(self, scheme, lstm):
        check(dnc_problem(Shape(batch=2, time=4, write_heads=1), lstm, scheme))

    @schemes
    def test_float64_with_lengths(self, scheme):
        check(of_four(scheme)._replace(lengths=LENGTHS))

    @pytest.mark.parametrize("time", [2, 6, 7, 12, 20])
    def test_float64_beyond_the_steps_whose_memory_and_links_are_kept(self, time):
        """A step's own, whether the step or the sequence ends at a kept one, or between two."""
        given = dnc_problem(Shape(batch=14, time=time, read_heads=1, write_heads=1), scale=0.3)
        check(given)
        check(given._replace(lengths=torch.arange(14).clamp_max(time)))

    def test_float64_of_links_too_large_to_run_sequences_together(self):
        check(dnc_problem(Shape(batch=3, time=5, slots=202, word=3, read_heads=1, write_heads=1), scale=0.3))

    @pytest.mark.parametrize("usage", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_slots_in_equal_use(self, usage, dtype):
        """As many as show a sort that isn't stable, and products that underflow."""
        given = dnc_problem(Shape(time=1, slots=300, write_heads=1), dtype=dtype, scale=0.3)
        with torch.no_grad():
            for part in (given.state.usage, given.state.read_weights, given.state.write_weights):
                part.fill_(usage if part is given.state.usage else 0)
        tolerance = DOUBLE if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
        assert_close(results(kernel, given), results(dnc_sequence_reference, given), **tolerance)

    @shapes
    def test_float32_errs_no_more_than_the_reference(self, shape):
        assert wrong(*in_float32(shape)) == {}

    @schemes
    def test_float32_of_every_ablation(self, scheme):
        assert wrong(*in_float32(Shape(time=4, slots=20, write_heads=1), scheme)) == {}

    @pytest.mark.parametrize("scale", [1e-3, 0.03, 1.0])
    def test_float32_at_small_and_large_values(self, scale):
        assert wrong(*in_float32(Shape(slots=40, hidden=20, write_heads=1), scale=scale)) == {}

    @pytest.mark.long
    def test_float32_over_many_steps(self):
        shape = Shape(batch=2, time=40, hidden=24, slots=32, word=8, write_heads=1)
        assert wrong(*in_float32(shape, scale=0.2, seeds=5)) == {}

    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(DNC_SHAPES["odd"], seeds=3)
        for i in range(len(actual[0])):
            planted = [[part.clone() for part in results] for results in actual]
            for results_of_seed in planted:
                results_of_seed[i][-1] += 1e-4 * results_of_seed[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    @schemes
    def test_nothing_uninitialised_is_kept(self, scheme):
        for lengths in (None, LENGTHS):
            given = of_four(scheme)._replace(lengths=lengths)
            outputs = torch.ops.memnets.dnc_sequence_forward(*op_arguments(given))
            assert all(output.isfinite().all() for output in outputs)

    def test_low_precision_is_computed_in_float32(self):
        given = dnc_problem(dtype=torch.bfloat16, scale=0.5)
        for got, want in zip(results(kernel, given), results(kernel, widened(given)), strict=True):
            assert got.dtype == torch.bfloat16
            assert_close(got.double(), want, rtol=0.01, atol=0.01 * want.abs().max().item())


def in_float32(shape, scheme=ALL, scale=0.3, seeds=9):
    def make(seed):
        return dnc_problem(shape, scheme=scheme, dtype=torch.float32, scale=scale, seed=seed)

    return in_narrow(kernel, dnc_sequence_reference, make, seeds)


def op_arguments(given, keep=True):
    """Of the forward op; a problem without links has tensors of no slots for them."""
    none = given.state.usage.new_zeros(len(given.inputs), 0)
    state = given.state
    if not given.scheme.link:
        state = state._replace(precedence_weights=none, link=none[:, :, None].expand(-1, 0, 0))
    return (given.inputs, given.lengths, *state, *given.weights, *given.scheme, keep)


def denormals(tensor):
    return ((tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)).sum().item()


class TestSequence:
    @schemes
    def test_gradients(self, scheme):
        given = dnc_problem(Shape(1, 3, 1, 2, 3, 2, 2, 1), scheme=scheme, scale=0.7)

        def call(*tensors):
            features, state = kernel(*given.with_tensors(tensors))
            return features, *(part for part in state if part is not None)

        assert torch.autograd.gradcheck(call, given.tensors, fast_mode=True)

    def test_two_halves_are_one_whole(self):
        given = dnc_problem(Shape(time=6, write_heads=1))

        def halves(inputs, state, weights, scheme, _):
            first, state = kernel(inputs[:, :2], state, weights, scheme)
            second, state = kernel(inputs[:, 2:], state, weights, scheme)
            return torch.cat([first, second], dim=1), state

        assert_close(results(halves, given), results(kernel, given), **DOUBLE)

    def test_sequences_are_independent_of_neighbours_and_threads(self):
        given = dnc_problem(Shape(batch=53, write_heads=1), dtype=torch.float32, scale=0.5)
        together = results(kernel, given)
        for i in (0, 52):
            assert kernel(*alone(given, i))[0].equal(together[0][i : i + 1])
        torch.set_num_threads(2)
        shared = results(kernel, given)
        assert all(a.equal(b) for a, b in zip(shared[:NUM_RESULTS], together[:NUM_RESULTS], strict=True))
        assert_close(shared, together, rtol=1e-4, atol=1e-4)  # each thread sums its gradients of the weights

    def test_more_chunks_than_sequences(self):
        """Links so large that a thread takes one sequence at a time, and there are three for two threads."""
        shape = Shape(batch=3, time=1, inputs=1, hidden=2, slots=512, word=1, read_heads=1, write_heads=1)
        given = dnc_problem(shape, scale=0.5)
        expected = results(dnc_sequence_reference, given)
        torch.set_num_threads(2)
        assert_close(results(kernel, given), expected, rtol=1e-9, atol=1e-10)

    def test_nan_stays_where_it_is(self):
        """A diverged sequence must be seen, and must not spoil its neighbours."""
        given = dnc_problem(dtype=torch.float32, scale=0.5)
        inputs = given.inputs.detach().clone()
        inputs[1, 2, 0] = torch.nan
        features, state = kernel(inputs, *given[1:])
        assert features[1, 2:].isnan().all()
        assert features[1, :2].isfinite().all()
        assert features[[0, 2]].isfinite().all()
        assert state.memory[1].isnan().all()

    def test_numbers_below_the_normal_ones_are_zero_in_the_kernel_alone(self):
        """Processors take a hundred times as long for them; this thread's others must not change."""
        given = dnc_problem(Shape(slots=50, write_heads=1), scheme=DNCScheme(), dtype=torch.float32)
        with torch.no_grad():
            given.state.link.zero_()
            given.state.precedence_weights.fill_(1e-20)
            given.weights.interface_bias[20] = 100.0  # the strength of writing
        assert denormals(dnc_sequence_reference(*given)[1].link)
        assert not denormals(kernel(*given)[1].link)
        assert torch.tensor([1e-40]).mul(0.5).item() > 0

    def test_steps_beyond_lengths_have_no_part(self):
        given = of_four()._replace(lengths=LENGTHS)
        inputs = given.inputs.detach().clone()
        for i, length in enumerate(LENGTHS.tolist()):
            inputs[i, length:] = 100.0
        other = given._replace(inputs=inputs.requires_grad_())
        assert_close(results(kernel, given), results(kernel, other), **DOUBLE)

    @pytest.mark.parametrize(
        ("batch", "scheme"),
        [
            pytest.param(1, ALL, marks=pytest.mark.long),
            (3, ALL),
            pytest.param(3, DNCScheme(link=False), marks=pytest.mark.long),
        ],
        ids=str,
    )
    def test_torch_knows_the_op(self, batch, scheme):
        given = dnc_problem(Shape(batch=batch, time=2, write_heads=1), scheme=scheme)
        kernel(*given)
        forward, backward = (
            getattr(torch.ops.memnets, f"dnc_sequence_{way}").default for way in ("forward", "backward")
        )
        torch.library.opcheck(forward, op_arguments(given))
        torch.library.opcheck(forward, op_arguments(given, keep=False), test_utils=("test_schema", "test_faketensor"))
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in op_arguments(given)]
        outputs = forward(*plain)
        kept = (outputs[0], *outputs[NUM_RESULTS:])
        saved = (plain[0], plain[1], plain[8], plain[9], *plain[11:NUM_TENSORS], *kept)
        ones = [torch.ones_like(output) for output in outputs[:NUM_RESULTS]]
        for gradients, wanted in (([None] * NUM_RESULTS, (False, True)), (ones, (True, False))):  # inputs, memory
            torch.library.opcheck(backward, (*gradients, *saved, *scheme, *wanted))

    @pytest.mark.parametrize("time", [1, 4, 5, 6, 7, 10])
    @pytest.mark.parametrize("lstm", [True, False])
    def test_torch_knows_the_shapes_of_what_is_kept(self, time, lstm):
        for scheme in DNC_SCHEMES:
            given = dnc_problem(Shape(batch=2, time=time, write_heads=1), lstm, scheme)
            kernel(*given)
            arguments = op_arguments(given)
            known = torch.ops.memnets.dnc_sequence_forward(*arguments)
            with FakeTensorMode(allow_non_fake_inputs=True):
                found = torch.ops.memnets.dnc_sequence_forward(*arguments)
            assert [tensor.shape for tensor in found] == [tensor.shape for tensor in known]

    def test_compiles_into_one_graph(self):
        given = dnc_problem(Shape(batch=2, time=2, write_heads=1))
        kernel(*given)  # building isn't part of the graph

        def total(inputs):
            features, memory, *_ = torch.ops.memnets.dnc_sequence_forward(inputs, *op_arguments(given)[1:])
            return features.sum() + memory.sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        gradients = [torch.autograd.grad(each(given.inputs), given.inputs)[0] for each in (compiled, total)]
        assert_close(*gradients, **DOUBLE)

    def test_second_derivatives_are_refused(self):
        given = dnc_problem()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(kernel(*given)[0].sum(), given.inputs, create_graph=True)

    def test_autocast_changes_nothing(self):
        given = dnc_problem(dtype=torch.float32)
        plain = results(kernel, given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, given), plain, strict=True))

    def test_shapes_are_checked_before_memory_is_touched(self):
        """Outside of tests nothing else looks at them."""
        arguments = list(op_arguments(dnc_problem()))
        state = ("memory", "usage", "precedence_weights", "link", "read_weights", "write_weights")
        for i, name in (*enumerate(state, start=2), (13, "bias"), (17, "interface_bias")):
            wrong_one = [*arguments[:i], arguments[i][:1], *arguments[i + 1 :]]
            with pytest.raises(RuntimeError, match=f"dnc_sequence: {name} must be"):
                torch.ops.memnets.dnc_sequence_forward(*wrong_one)
        with pytest.raises(RuntimeError, match="interface weights don't fit the heads"):
            torch.ops.memnets.dnc_sequence_forward(*arguments[:NUM_TENSORS], False, *arguments[NUM_TENSORS + 1 :])


PEAK = """
import torch
from memnets.contracts import Spec
from memnets.models.dnc import DNC
from memnets.ops.backend import use_backend

def train(model):
    outputs, _ = model(torch.rand(1, 41, 9))
    outputs.square().mean().backward()

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

use_backend("cpu")
train(DNC(Spec("vectors", 9, 8), memory_size=16))
model = DNC(Spec("vectors", 9, 8), memory_size=2048)
before = peak()
train(model)
print(peak() - before)
"""


class TestWhatIsKept:
    @pytest.mark.parametrize(("time", "most"), [(1, 1), (9, 3), (10, 3), (17, 4)])
    def test_links_of_every_root_of_time_steps(self, time, most):
        """Beside those, one matrix: the links after the last step."""
        given = dnc_problem(Shape(1, time, 1, 2, 600, 2, 1, 1))
        kernel(*given)
        outputs = torch.ops.memnets.dnc_sequence_forward(*op_arguments(given))
        assert most + 1 <= sum(out.numel() for out in outputs) / 600**2 < most + 2

    def test_nothing_grows_with_pairs_of_slots_without_links(self):
        given = dnc_problem(Shape(1, 6, 1, 2, 2000, 2, 1, 1), scheme=DNCScheme(link=False))
        kernel(*given)
        with torch.profiler.profile(profile_memory=True) as profile:
            features, _ = kernel(*given)
            features.sum().backward()
        taken = [event.self_cpu_memory_usage for event in profile.events()]
        assert sum(size for size in taken if size > 0) < 2000**2

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory")
    @pytest.mark.long
    def test_trains_2048_slots_in_a_third_of_a_gigabyte(self):
        """The links of one step have 16 MB; there are 41 steps."""
        found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
        assert 50 < int(found.stdout) / 1024 < 330


class TestDNC:
    @pytest.mark.parametrize("parts", LEGAL, ids=names)
    @pytest.mark.parametrize("controller", [LSTMController, FeedForwardController])
    def test_same_under_both_backends(self, parts, controller):
        model, inputs = tiny_dnc(parts, controller).double(), torch.randn(3, 4, 4).double()
        with use_backend("cpu"):
            fused = gradients_of(model, inputs)
        with use_backend("reference"):
            assert_close(fused, gradients_of(model, inputs), **DOUBLE)

    @pytest.mark.parametrize("memory_size", [5, 16, 37, 128])
    def test_slots_alike_are_treated_alike(self, memory_size):
        """The first memory has the same in all of them, so that they come into equal use, wherever in a vector."""
        model = DNC(Spec("vectors", 4, 3), memory_size=memory_size)
        inputs = torch.rand(2, 3, 4)
        with use_backend("cpu"):
            fused, state = model(inputs[:, :2])
            assert [len(usage.unique()) for usage in state.access.usage] == [2, 2]
            fused, state = model(inputs)
        with use_backend("reference"):
            assert_close([fused, state.access.usage], [model(inputs)[0], model(inputs)[1].access.usage])

    def test_what_it_cant_express_runs_step_by_step(self):
        class Other(TemporalLink):
            pass

        model = DNC(Spec("vectors", 4, 3), memory_size=5, word_size=3)
        model.cell.access.addressing = model.cell.access.addressing.__class__(link=Other())
        inputs = torch.randn(3, 4, 4)
        outputs, _ = model(inputs)
        with use_backend("reference"):
            assert model(inputs)[0].equal(outputs)
        with use_backend("cpu"), pytest.raises(BackendError, match="can't run dnc_sequence: it has no Other"):
            model(inputs)

    def test_recomputing_changes_nothing(self):
        inputs, found = torch.randn(3, 7, 4).double(), []
        for recompute in (False, True):
            torch.manual_seed(1)
            model = tiny_dnc(LEGAL[-1]).double()
            model.recompute = recompute
            with use_backend("cpu"):
                found.append(gradients_of(model, inputs))
        assert_close(*found, **DOUBLE)


def gradients_of(model, inputs):
    model.zero_grad()
    outputs, state = model(inputs)
    sum(part.square().sum() for part in (outputs, *named_tensors(state).values())).backward()
    return outputs, named_tensors(state), {name: weight.grad for name, weight in model.named_parameters()}
