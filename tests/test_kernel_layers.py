"""The sequence kernel under LSTMs of several layers, against the reference."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import Shape, kernel, problem, results, wrong
from test_kernels import DOUBLE, LEGAL, gradients_of, in_float32, op_arguments, tiny_ntm
from torch.testing import assert_close

from memnets.models.controller import LSTMController
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.ntm_sequence import ntm_sequence, ntm_sequence_reference

SHAPES = {
    "two": Shape(layers=2),
    "three": Shape(layers=3),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1, 1, layers=2),
    "strided": Shape(strided=True, layers=3),
    "beyond_vectors": Shape(batch=27, time=3, hidden=33, slots=20, word=5, read_heads=1, write_heads=1, layers=2),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
LENGTHS = torch.tensor([3, 5, 0, 1])


@pytest.fixture(scope="module", autouse=True)
def built():
    """The op exists once the kernel is loaded."""
    kernel(*problem())


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    def test_float64(self, shape):
        given = problem(shape, scale=0.5)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    @shapes
    def test_float32_errs_no_more_than_the_reference(self, shape):
        assert wrong(*in_float32(shape)) == {}

    @pytest.mark.parametrize("layers", [2, 3])
    def test_float64_with_lengths(self, layers):
        given = problem(Shape(batch=4, layers=layers), scale=0.5)._replace(lengths=LENGTHS)
        assert_close(results(kernel, given), results(ntm_sequence_reference, given), **DOUBLE)
        with torch.no_grad():
            assert_close(kernel(*given), ntm_sequence_reference(*given), **DOUBLE)

    def test_nothing_uninitialised_is_kept(self):
        for lengths in (None, LENGTHS):
            given = problem(Shape(batch=4, layers=3))._replace(lengths=lengths)
            outputs = torch.ops.memnets.ntm_sequence_forward(*op_arguments(given))
            assert all(output.isfinite().all() for output in outputs)


class TestSequence:
    def test_a_layer_sees_the_one_below_as_in_nn_lstm(self):
        """With a memory of zeros that nothing is added to, the output is that of an LSTM."""
        given = problem(Shape(layers=3))
        weights = given.weights
        lstm = torch.nn.LSTM(3 + 12, 5, 3, batch_first=True).double()
        both = [torch.cat([weights.input, weights.recurrent], dim=1), *weights.upper]
        for layer, (weight, bias) in enumerate(zip(both, [weights.bias, *weights.upper_bias], strict=True)):
            own = weight.split([weight.shape[1] - 5, 5], dim=1)
            values = {"weight_ih": own[0], "weight_hh": own[1], "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
            for name, value in values.items():
                getattr(lstm, f"{name}_l{layer}").data.copy_(value)
        state = given.state._replace(
            memory=torch.zeros_like(given.state.memory), read_vectors=torch.zeros_like(given.state.read_vectors)
        )
        still = weights._replace(
            interface=torch.zeros_like(weights.interface), interface_bias=torch.zeros_like(weights.interface_bias)
        )
        features, after = kernel(given.inputs, state, still, given.scheme)
        inputs = torch.cat([given.inputs, given.inputs.new_zeros(3, 5, 12)], dim=2)
        first = tuple(part.transpose(0, 1).contiguous() for part in (given.state.hidden, given.state.cell))
        outputs, (hidden, cell) = lstm(inputs, first)
        assert_close(features[..., :5], outputs, **DOUBLE)
        assert_close((after.hidden, after.cell), (hidden.transpose(0, 1), cell.transpose(0, 1)), **DOUBLE)

    def test_two_halves_are_one_whole(self):
        given = problem(Shape(time=6, layers=2), scale=0.5)

        def halves(inputs, state, weights, scheme, _):
            first, state = kernel(inputs[:, :2], state, weights, scheme)
            second, state = kernel(inputs[:, 2:], state, weights, scheme)
            return torch.cat([first, second], dim=1), state

        assert_close(results(halves, given), results(kernel, given), **DOUBLE)

    def test_two_threads_are_one(self):
        given = problem(Shape(batch=53, layers=3), dtype=torch.float32)._replace(lengths=torch.arange(53) % 6)
        torch.set_num_threads(1)
        alone = results(kernel, given)
        torch.set_num_threads(2)
        together = results(kernel, given)
        features_and_state = slice(0, 7)
        assert all(a.equal(b) for a, b in zip(alone[features_and_state], together[features_and_state], strict=True))
        assert_close(alone, together, rtol=1e-4, atol=1e-4)  # sums over the batch are large products of torch's own

    @pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.long), 3])
    def test_torch_knows_the_op(self, batch):
        given = problem(Shape(batch=batch, time=2, layers=3), scale=0.5)
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
            torch.library.opcheck(backward, (*gradients, *saved, *plain[15:20], True, True))

    def test_shapes_are_checked_before_memory_is_touched(self):
        arguments = list(op_arguments(problem(Shape(layers=3))))
        for i, name in ((6, "hidden"), (7, "cell"), (12, "upper_bias")):
            wrong_one = [*arguments[:i], arguments[i][:, :1], *arguments[i + 1 :]]
            with pytest.raises(RuntimeError, match=f"ntm_sequence: {name} must be"):
                torch.ops.memnets.ntm_sequence_forward(*wrong_one)

    def test_the_kernel_of_gpus_says_that_it_runs_one_layer(self):
        with use_backend("triton"), pytest.raises(BackendError, match="it runs one layer, not 3"):
            ntm_sequence(*problem(Shape(layers=3)))


class TestNTM:
    @pytest.mark.parametrize("num_layers", [2, 3])
    def test_same_under_both_backends(self, num_layers):
        def controller(input_size, hidden_size):
            return LSTMController(input_size, hidden_size, num_layers)

        model, inputs = tiny_ntm(controller, LEGAL[0]), torch.randn(3, 4, 4).double()
        with use_backend("cpu"):
            fused = gradients_of(model, inputs)
        with use_backend("reference"):
            assert_close(fused, gradients_of(model, inputs), **DOUBLE)
