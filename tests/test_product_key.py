"""Product keys: the C++ kernels against their references, at odd sizes, ties and scores that are no numbers."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from kernel_problems import wrong
from torch.testing import assert_close

from memnets.ops.backend import BackendError, use_backend
from memnets.ops.product_key import (
    product_key_address,
    product_key_address_reference,
    weighted_gather,
    weighted_gather_reference,
)

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}
OPS = {
    "address": (product_key_address, product_key_address_reference),
    "gather": (weighted_gather, weighted_gather_reference),
}
NAMES = {"address": "product_key_address_cpu", "gather": "weighted_gather_cpu"}
every_op = pytest.mark.parametrize("op", OPS)


class Shape(NamedTuple):
    """Sizes of a problem; the search has so many half keys a side as the gather has slots."""

    rows: int = 5
    heads: int = 3
    slots: int = 11
    word: int = 6
    k: int = 4
    strided: bool = False
    one_slot: bool = False


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1, 1),
    "all_of_a_side": Shape(k=11),
    "one_choice": Shape(k=1),
    "one_slot_for_all": Shape(rows=40, one_slot=True),
    "whole_vectors": Shape(rows=3, slots=64, word=32, k=16),
    "beyond_vectors": Shape(rows=37, slots=67, word=33, k=17),
    "wide": Shape(rows=2, word=530),
    "groups_of_keys": Shape(rows=70, heads=1, slots=300, word=3, k=9),
    "many_choices": Shape(rows=2, heads=1, slots=90, word=2, k=90),
    "past_the_caches": Shape(rows=9, heads=1, slots=9000, word=256, k=3),
    "strided": Shape(strided=True),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def problem(op, shape=None, dtype=torch.float64, seed=0):
    """Random arguments: the same values, bar rounding, for the same seed at any precision."""
    shape = shape or Shape()
    generator = torch.Generator().manual_seed(seed)
    rows, heads, slots, word, k = shape[:5]

    def place(tensor):
        if shape.strided:  # the gaps hold what must not be read
            gaps = torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else ~tensor
            tensor = torch.stack([tensor, gaps], dim=-1)[..., 0]
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    def normal(*sizes):
        return place(torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype))

    if op == "address":
        side = min(slots, 500)  # the reference sorts all sums
        return normal(rows, heads, 2 * word), normal(heads, 2, side, word), k
    indices = torch.randint(slots, (rows, heads, k), generator=generator)
    return normal(slots, word), normal(rows, heads, k), place(indices * 0 + slots - 1 if shape.one_slot else indices)


def kernel(op, *given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return OPS[op][0](*given)


def reference(op, *given):
    return OPS[op][1](*given)


def inputs_of(given):
    return [each for each in given if isinstance(each, torch.Tensor) and each.requires_grad]


def results(function, op, given):
    """What the op gives, and the gradients of its arguments for random ones of that; slots among them."""
    outputs = function(op, *given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64).to(outputs[0])
    return [*outputs, *torch.autograd.grad(outputs[0], inputs_of(given), gradient)]


def floating(tensors):
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def recast(given, dtype):
    """The same numbers, bar rounding, in another precision."""
    return [
        each.detach().to(dtype).requires_grad_() if isinstance(each, torch.Tensor) and each.requires_grad else each
        for each in given
    ]


@pytest.fixture(scope="module", autouse=True)
def built():
    """The ops exist once their kernels are loaded."""
    kernel("gather", *problem("gather"))


def in_float32(op, shape, seeds=5):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(seeds):
        narrow = problem(op, shape, torch.float32, seed)
        wide = recast(narrow, torch.float64)
        called = (kernel, narrow), (reference, narrow), (reference, wide)
        three = [results(function, op, given) for function, given in called]
        if op == "address":
            assert three[0][1].equal(three[2][1]), "slots whose scores nearly tie would make gradients incomparable"
        found.append([floating(each) for each in three])
    return list(zip(*found, strict=True))


@every_op
@pytest.mark.usefixtures("poisoned")
class TestKernels:
    @shapes
    def test_float64(self, op, shape):
        given = problem(op, shape)
        assert_close(results(kernel, op, given), results(reference, op, given), **DOUBLE)

    @pytest.mark.parametrize("name", ["odd", "whole_vectors", "beyond_vectors", "wide", "groups_of_keys", "strided"])
    def test_float32_errs_no_more_than_the_reference(self, op, name):
        assert wrong(*in_float32(op, SHAPES[name])) == {}

    def test_a_wrong_row_is_caught(self, op):
        actual, expected, exact = in_float32(op, Shape(), seeds=3)
        for i in range(len(exact[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, expected, exact)) == [i]

    def test_gradients(self, op):
        given = problem(op, Shape(2, 2, 4, 2, 3))

        def call(*tensors):
            found = kernel(op, *tensors, *given[len(tensors) :])
            return found[0] if isinstance(found, tuple) else found

        assert torch.autograd.gradcheck(call, inputs_of(given))

    def test_same_bits_for_any_number_of_threads(self, op):
        given = problem(op, Shape(rows=400, slots=300, word=20, k=9), torch.float32)
        one = results(kernel, op, given)
        torch.set_num_threads(2)
        assert all(a.equal(b) for a, b in zip(one, results(kernel, op, given), strict=True))

    def test_rows_are_those_alone(self, op):
        given = problem(op, Shape(rows=41), torch.float32)
        rows = {"address": (0,), "gather": (1, 2)}[op]  # of the arguments, those that have any
        together = kernel(op, *given)
        together = together if isinstance(together, tuple) else (together,)
        for r in range(41):
            alone = kernel(op, *(each[r : r + 1] if i in rows else each for i, each in enumerate(given)))
            alone = alone if isinstance(alone, tuple) else (alone,)
            assert all(a.equal(b[r : r + 1]) for a, b in zip(alone, together, strict=True))

    def test_gradients_of_what_wants_them(self, op):
        whole = problem(op)
        for wanted in ((True, False), (False, True)):
            given = recast(whole, torch.float64)
            inputs_of(given)[wanted.index(False)].requires_grad_(False)
            every, some = results(kernel, op, whole)[-2:], results(kernel, op, given)[-1]
            assert some.equal(every[wanted.index(True)])

    def test_without_gradients(self, op):
        given = problem(op)
        with torch.no_grad():
            assert_close(kernel(op, *given), reference(op, *given), **DOUBLE)

    def test_low_precision_is_computed_in_float32(self, op):
        narrow = problem(op, dtype=torch.bfloat16)
        wide = recast(narrow, torch.float32)
        for got, want in zip(results(kernel, op, narrow), results(kernel, op, wide), strict=True):
            if got.is_floating_point():
                assert got.dtype == torch.bfloat16
                assert_close(got.double(), want.double(), rtol=0.01, atol=0.01 * want.abs().max().item())

    def test_autocast_changes_nothing(self, op):
        given = problem(op, dtype=torch.float32)
        plain = results(kernel, op, given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, op, given), plain, strict=True))

    @pytest.mark.parametrize("rows", [1, 3])
    def test_torch_knows_the_op(self, op, rows):
        given = problem(op, Shape(rows=rows))
        forward, backward = (getattr(torch.ops.memnets, NAMES[op] + way).default for way in ("", "_backward"))
        torch.library.opcheck(forward, given)
        plain = [each.detach() if isinstance(each, torch.Tensor) else each for each in given]
        found = forward(*plain)
        if op == "address":
            torch.library.opcheck(backward, (torch.ones_like(found[0]), *plain[:2], found[1]))
            return
        for wanted in ((True, True), (True, False), (False, True)):
            torch.library.opcheck(backward, (torch.ones_like(found), *plain, *wanted))

    def test_compiles_into_one_graph(self, op):
        first, *others = problem(op)

        def total(given):
            found = getattr(torch.ops.memnets, NAMES[op])(given, *others)
            return (found[0] if isinstance(found, tuple) else found).square().sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        assert_close(*(torch.autograd.grad(each(first), first)[0] for each in (compiled, total)), **DOUBLE)

    def test_second_derivatives_are_refused(self, op):
        given = problem(op)
        found = kernel(op, *given)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(
                (found[0] if isinstance(found, tuple) else found).sum(), inputs_of(given), create_graph=True
            )


class TestSearch:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize(
        ("side", "half", "k", "below"),
        [(512, 3, 32, 4), (64, 2, 64, 3), (300, 1, 5, 3), (400, 1, 300, 2), (129, 2, 16, 100), (512, 1, 1, 50)],
    )
    def test_ties_go_to_the_lower_slot(self, side, half, k, below, dtype):
        """Whole numbers: scores are exact, many are equal, and -0 is 0."""
        query = torch.randint(1 - below, below, (40, 2, 2 * half)).to(dtype)
        half_keys = -torch.randint(1 - below, below, (2, 2, side, half)).to(dtype)
        found, expected = (each("address", query, half_keys, k) for each in (kernel, reference))
        assert found[0].equal(expected[0])
        assert found[1].equal(expected[1])

    def test_sums_that_are_equal_by_rounding_only(self):
        """The second half's differences are lost in the first's size: its order no longer says which slot is first."""
        half_keys = torch.rand(1, 2, 300, 1)
        half_keys[:, 0] += 2.0**22
        found, expected = (each("address", torch.ones(3, 1, 2), half_keys, 20) for each in (kernel, reference))
        assert found[0].unique().numel() < 20
        assert found[1].equal(expected[1])

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
    @pytest.mark.parametrize("half", [0, 1])
    @pytest.mark.parametrize("k", [7, 64])
    def test_slots_exist_whatever_the_scores_are(self, value, half, k):
        half_keys = torch.randn(1, 2, 200, 1)
        half_keys[0, half, torch.randperm(200)[:90]] = value
        half_keys[0, 1 - half, torch.randperm(200)[:40]] = -value
        scores, slots = kernel("address", torch.ones(2, 1, 2), half_keys, k)
        for row in slots.flatten(0, 1).tolist():
            assert len(set(row) & set(range(200**2))) == k
        assert value == -torch.inf or not scores.isfinite().any()

    def test_nan_stays_in_its_row(self):
        query, half_keys, k = problem("address", dtype=torch.float32)
        spoilt = query.detach().clone()
        spoilt[1] = torch.nan
        scores, _ = kernel("address", spoilt, half_keys, k)
        assert scores[1].isnan().all()
        assert scores[[0, 2, 3, 4]].equal(kernel("address", query, half_keys, k)[0][[0, 2, 3, 4]])


class TestGather:
    def test_slots_that_are_not_chosen_have_gradient_zero(self):
        values, weights, indices = problem("gather", Shape(rows=2, slots=9000, word=256), torch.float32)
        found = results(kernel, "gather", (values, weights, indices))[1]
        assert set(found.abs().sum(-1).nonzero().flatten().tolist()) == set(indices.flatten().tolist())

    @pytest.mark.parametrize("slot", [-1, 11, 2**40])
    def test_refuses_slots_there_are_not(self, slot):
        values, weights, indices = problem("gather")
        indices[0, 0, 0] = slot
        with pytest.raises(IndexError, match="indices must be slots from 0 to 10"):
            kernel("gather", values, weights, indices)

    def test_shapes_are_checked_before_memory_is_touched(self):
        values, weights, indices = problem("gather")
        forward, backward = torch.ops.memnets.weighted_gather_cpu, torch.ops.memnets.weighted_gather_cpu_backward
        with pytest.raises(RuntimeError, match="weighted_gather: weights must be"):
            forward(values, weights[:1], indices)
        with pytest.raises(RuntimeError, match="weighted_gather: the gradient must be"):
            backward(torch.ones(1, 3, 6).double(), values, weights, indices, True, True)
        query, half_keys, k = problem("address")
        with pytest.raises(RuntimeError, match="product_key_address: half keys must be"):
            torch.ops.memnets.product_key_address_cpu(query, half_keys[:1], k)
        with pytest.raises(RuntimeError, match="product_key_address: k must be from 1 to the 11 half keys"):
            torch.ops.memnets.product_key_address_cpu(query, half_keys, 12)

    def test_what_the_kernels_leave_to_the_reference(self):
        values, weights, indices = problem("gather")
        mapped = torch.func.vmap(lambda given: weighted_gather(given, weights, indices))(values[None])
        assert_close(mapped[0], weighted_gather(values, weights, indices))
        with pytest.raises(BackendError, match="nothing to run"):
            kernel("gather", values, weights[:0], indices[:0])
