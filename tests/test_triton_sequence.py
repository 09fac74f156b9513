"""The sequence kernel for GPUs against its reference, in the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import SHAPES, Problem, Shape, problem, results, wrong
from tiers import IF_INTERPRETED, but_for_interpreted, long_interpreted
from torch.testing import assert_close
from triton.runtime import interpreter

from memnets.kernels.triton import ntm_sequence as kernels
from memnets.ops.ntm_sequence import HeadScheme, NTMSequenceState, ntm_sequence_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOUBLE = {"rtol": 1e-10, "atol": 1e-11}
TINY = Shape(batch=2, time=3, inputs=2, hidden=3, slots=4, word=3, read_heads=1, write_heads=1)
SEEDS = 3
FORWARD = torch.ops.memnets.ntm_sequence_triton.default
BACKWARD = torch.ops.memnets.ntm_sequence_triton_backward.default
SCHEMES = [
    HeadScheme("dot", strength=True, gate=False, shift_width=5, sharpening=False),
    HeadScheme("cosine", strength=False, gate=True, shift_width=0, sharpening=True),
    HeadScheme("cosine", strength=True, gate=True, shift_width=1, sharpening=False),
    HeadScheme("dot", strength=False, gate=True, shift_width=9, sharpening=True),
    HeadScheme("cosine", strength=False, gate=False, shift_width=0, sharpening=False),
    HeadScheme(None, strength=True, gate=False, shift_width=3, sharpening=True),
    HeadScheme(None, strength=False, gate=False, shift_width=0, sharpening=False),
]
controllers = pytest.mark.parametrize("lstm", [True, False], ids=["lstm", "tanh"])


def kernel(inputs, state, weights, scheme, lengths=None):
    """The kernel, called like the op."""
    features, *after = kernels.run((inputs, lengths, *state, *weights), (scheme.similarity or "none", *scheme[1:]))
    return features, NTMSequenceState(*after)


def made(shape=TINY, lstm=True, scheme=None, lengths=None, **options):
    """A problem, on the GPU if there is one."""
    given = problem(shape, lstm, scheme, device=DEVICE, **options)
    return given._replace(lengths=None if lengths is None else torch.tensor(lengths, device=DEVICE))


def short(shape, batch):
    """The same with fewer sequences and steps: the interpreter is slow."""
    return shape._replace(batch=min(shape.batch, batch), time=min(shape.time, 2))


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @pytest.mark.parametrize("name", but_for_interpreted(SHAPES, ["odd", "no_inputs", "strided"].__contains__))
    @pytest.mark.parametrize("lstm", but_for_interpreted([True, False], bool, ["tanh", "lstm"].__getitem__))
    def test_float64(self, name, lstm):
        given = made(short(SHAPES[name], batch=2 if lstm else 1), lstm)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @pytest.mark.parametrize(
        "scheme", but_for_interpreted(SCHEMES, SCHEMES[:2].__contains__, lambda scheme: "-".join(map(str, scheme)))
    )
    def test_float64_of_ablations(self, scheme):
        given = made(TINY._replace(write_heads=2), scheme=scheme)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    def test_float64_beyond_one_block_of_a_matrix(self):
        given = made(Shape(batch=1, time=2, hidden=70, slots=5, word=3, read_heads=1, write_heads=1))
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)

    @controllers
    def test_float64_without_gradients(self, lstm):
        """Of the trace, two rows are kept in turn."""
        given = made(TINY, lstm)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @controllers
    def test_float64_with_lengths(self, lstm):
        given = made(TINY._replace(batch=4), lstm, lengths=[2, 0, 3, 1])
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @pytest.mark.parametrize("lstm", but_for_interpreted([True, False], bool, ["tanh", "lstm"].__getitem__))
    def test_float32_errs_no_more_than_the_reference(self, lstm):
        assert wrong(*in_float32(TINY, lstm)) == {}

    @long_interpreted
    @pytest.mark.parametrize("scale", [1e-3, 1.0])
    def test_float32_at_small_and_large_values(self, scale):
        assert wrong(*in_float32(TINY, scale=scale)) == {}

    @long_interpreted
    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(TINY)
        for i in range(len(actual[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]


def in_float32(shape, lstm=True, scale=0.3):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(SEEDS):
        narrow = made(shape, lstm, dtype=torch.float32, scale=scale, seed=seed)
        functions = (kernel, narrow), (ntm_sequence_reference, narrow), (ntm_sequence_reference, widened(narrow))
        found.append([results(function, given) for function, given in functions])
    return list(zip(*found, strict=True))


def widened(given):
    """The same numbers in float64."""
    state, weights = (type(part)(*(None if t is None else t.double() for t in part)) for part in given[1:3])
    return Problem(given.inputs.double(), state, weights, *given[3:])


class TestSequence:
    @long_interpreted
    def test_gradients(self):
        given = made(Shape(1, 2, 1, 2, 3, 2, 1, 1), scale=0.7)

        def call(*tensors):
            features, after = kernel(*given.with_tensors(tensors))
            return torch.cat([part.flatten() for part in (features, *after)])

        assert torch.autograd.gradcheck(call, given.tensors, fast_mode=True)

    def test_two_halves_are_one_whole(self):
        given = made()

        def halves(inputs, state, weights, scheme, _):
            first, state = kernel(inputs[:, :1], state, weights, scheme)
            second, state = kernel(inputs[:, 1:], state, weights, scheme)
            return torch.cat([first, second], dim=1), state

        assert_close(results(halves, given), results(kernel, given), **DOUBLE)

    def test_steps_beyond_a_length_have_no_part(self):
        """Their inputs may be anything: neither results nor gradients see them."""
        given = made(lengths=[1, 2])
        inputs = given.inputs.detach().clone()
        inputs[0, 1:] = inputs[1, 2:] = 100.0
        other = given._replace(inputs=inputs.requires_grad_())
        assert_close(results(kernel, given), results(kernel, other), **DOUBLE)

    def test_repeats_bit_for_bit(self):
        one, two = (results(kernel, made(dtype=torch.float32)) for _ in range(2))
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))

    def test_nan_stays_where_it_is(self):
        """A diverged sequence must be seen, and must not spoil its neighbours."""
        given = made(dtype=torch.float32)
        inputs = given.inputs.detach().clone()
        inputs[1, 1, 0] = torch.nan
        features, state = kernel(inputs, *given[1:])
        assert features[1, 1:].isnan().all()
        assert features[1, :1].isfinite().all()
        assert features[0].isfinite().all()
        assert state.memory[1].isnan().all()

    def test_autocast_changes_nothing(self):
        given = made(dtype=torch.float32)

        def under_autocast(*arguments):
            with torch.autocast(DEVICE, torch.bfloat16):
                return kernel(*arguments)

        assert_close(results(under_autocast, given), results(kernel, given), rtol=0, atol=0)


@pytest.fixture
def accesses(monkeypatch):
    """Addresses that programs read and write from one barrier to the next, as the interpreter runs them."""
    builder, found = interpreter.InterpreterBuilder, [([], [])]

    def note(name, kind, addresses):
        original = getattr(builder, name)

        def noting(self, *arguments):
            if kind is None:
                found.append(([], []))
            else:
                found[-1][kind].append(addresses(*arguments))
            return original(self, *arguments)

        monkeypatch.setattr(builder, name, noting)

    note("create_masked_load", 0, lambda pointers, mask, *_: set(pointers.data[mask.data].tolist()))
    note("create_masked_store", 1, lambda pointers, _, mask, *__: set(pointers.data[mask.data].tolist()))
    note("create_barrier", None, None)
    note("set_grid_idx", None, None)
    return found


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter tells what is accessed")
@pytest.mark.parametrize("keep", [True, False])
@controllers
def test_what_is_stored_is_not_touched_before_a_barrier(accesses, lstm, keep):
    """Other threads may be ahead or behind: the interpreter, which has one, would not show it."""
    given = made(TINY._replace(batch=1, read_heads=2, write_heads=2), lstm)
    with torch.set_grad_enabled(keep):
        if keep:
            results(kernel, given)
        else:
            kernel(*given)
    assert sum(len(stores) for _, stores in accesses) > 20
    for loads, stores in accesses:
        for i, store in enumerate(stores):
            assert all(store.isdisjoint(other) for other in loads + stores[:i])


class TestOp:
    @pytest.mark.parametrize(
        ("batch", "lstm", "lengths"),
        [
            (1, False, None),
            pytest.param(1, True, None, marks=IF_INTERPRETED),
            pytest.param(3, True, None, marks=IF_INTERPRETED),
            pytest.param(3, False, [1, 0, 1], marks=IF_INTERPRETED),
        ],
    )
    @pytest.mark.usefixtures("poisoned")
    def test_torch_knows_it(self, batch, lstm, lengths, monkeypatch):
        """At the arguments that `run` gives it; the gradient's op at what the op then gives that."""
        given = made(TINY._replace(batch=batch, time=1), lstm, lengths=lengths)
        calls = []
        monkeypatch.setattr(kernels, "ntm_sequence_triton", lambda *call: calls.append(call) or FORWARD(*call))
        kernel(*given)
        arguments = [t.detach().requires_grad_() if is_floating(t) else t for t in calls[0]]
        torch.library.opcheck(FORWARD, arguments)
        with torch.no_grad():
            features, *state, trace = FORWARD(*arguments)
        assert all(each.isfinite().all() for each in (features, *state, trace))
        ones = (torch.ones_like(each) for each in (features, *state))
        matrices = (arguments[5].detach(), arguments[6].detach())
        torch.library.opcheck(BACKWARD, (*ones, features, trace, *matrices, *arguments[8:-1]))

    def test_compiles_into_one_graph(self):
        given = made(TINY._replace(time=1))

        def total(inputs):
            features, state = kernel(inputs, *given[1:])
            return features.sum() + state.memory.sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        gradients = [torch.autograd.grad(each(given.inputs), given.inputs)[0] for each in (compiled, total)]
        assert_close(*gradients, **DOUBLE)


def is_floating(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


@pytest.mark.parametrize(
    ("slots", "word", "dtype"), [(128, 20, torch.float32), (256, 32, torch.float32), (100, 17, torch.float64)]
)
def test_memories_that_fit(slots, word, dtype):
    assert kernels.obstacle(torch.empty(3, slots, word, dtype=dtype, device="meta")) is None


@pytest.mark.parametrize(
    ("slots", "word", "dtype"), [(512, 20, torch.float32), (256, 32, torch.float64), (8192, 1, torch.float32)]
)
def test_memories_that_dont(slots, word, dtype):
    reason = kernels.obstacle(torch.empty(3, slots, word, dtype=dtype, device="meta"))
    assert reason is not None
    assert f"a memory of {slots} x {word} doesn't fit the chip" in reason
