"""Every op at every case: values against naive loops, gradients in float64, low precision, independent rows."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from test_ops import DTYPES, differentiable
from tiers import directions
from torch.testing import assert_close

from memnets import ops
from memnets.ops.cases import OPS, cases
from memnets.ops.draw import Sizes
from memnets.ops.erase_add import read

CASES = [pytest.param(case, id=case.name) for case in cases()]


CASE_FILES = {"cases", "arguments", "draw"}
SEQUENCES = {"sequence", "ntm_sequence", "dnc_sequence", "sam_sequence", "entity_memory"}
ELSEWHERE = {"backend", "memory_hops", "neural_memory", *SEQUENCES}
"""No ops of one step: tested in test_backend.py, test_kernels.py, test_dnc.py, test_sam.py and the files so named."""


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def floating_outputs(result):
    """Floating outputs; -inf, the score of no slot, becomes 0."""
    return tuple(torch.where(out == -torch.inf, 0, out) for out in as_tuple(result) if out.is_floating_point())


class TestEveryCase:
    def test_every_op_has_cases_and_a_naive_loop(self):
        files = {path.stem for path in Path(ops.__path__[0]).glob("*.py")} - {"__init__", *CASE_FILES, *ELSEWHERE}
        public = {
            name: member
            for file in files
            for name, member in vars(importlib.import_module(f"memnets.ops.{file}")).items()
            if inspect.isfunction(member)
            and member.__module__ == f"memnets.ops.{file}"
            and not name.startswith("_")
            and not name.endswith("_reference")
        }
        assert public == {name: op.function for name, op in OPS.items()}
        assert [name for name in public if not hasattr(naive, name)] == []

    @pytest.mark.parametrize("case", CASES)
    def test_values_equal_naive_loops(self, case):
        arguments = case.arguments(torch.float64)
        arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        expected = as_tuple(getattr(naive, case.op)(**arrays))
        for got, want in zip(as_tuple(case.function(**arguments)), expected, strict=True):
            if want.dtype.kind == "i":  # the slot of no slot is arbitrary: -1 in the loop
                got = got.masked_fill(torch.from_numpy(want == -1), -1)
            assert_close(got, torch.from_numpy(want), rtol=1e-9, atol=1e-12)

    @directions
    @pytest.mark.parametrize("case", CASES)
    def test_gradients(self, case, fast):
        arguments, inputs = differentiable(case.arguments(torch.float64))
        names = [name for name, value in arguments.items() if any(value is tensor for tensor in inputs)]

        def call(*tensors):
            return floating_outputs(case.function(**arguments | dict(zip(names, tensors, strict=True))))

        assert torch.autograd.gradcheck(call, inputs, fast_mode=fast)

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_low_precision_stays_near_float64(self, case, dtype):
        """Error, relative to the largest value, within 16 roundings of the dtype; the result has the dtype."""
        actual = floating_outputs(case.function(**case.arguments(dtype)))
        rounded = {
            name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in case.arguments(dtype).items()
        }
        for got, want in zip(actual, floating_outputs(case.function(**rounded)), strict=True):
            assert got.dtype == dtype
            bound = 16 * torch.finfo(dtype).eps * want.abs().max().clamp_min(1e-6)
            assert (got.double() - want).abs().max() <= bound

    @pytest.mark.parametrize("case", [case for case in CASES if case.values[0].sizes.batch > 1])
    def test_batch_rows_are_independent(self, case):
        arguments = case.arguments(torch.float64)
        other = case.arguments(torch.float64, seed=1)
        mixed = {
            name: torch.cat([value[:1], other[name][1:]]) if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
            if name not in OPS[case.op].shared
        }
        mixed = arguments | mixed
        before, after = (floating_outputs(case.function(**each)) for each in (arguments, mixed))
        for one, two in zip(before, after, strict=True):
            assert_close(one[:1], two[:1], rtol=1e-12, atol=1e-14)

    def test_shapes_are_checked_under_test(self):
        """Torch alone would broadcast this."""
        with pytest.raises(TypeCheckError, match="weights"):
            read(torch.zeros(1, 3, 4), torch.zeros(2, 1, 3))


def test_strided_cases_are_strided():
    """Else the cases named so would test nothing."""
    for case in cases(sizes={"strided": Sizes(strided=True)}):
        tensors = [value for value in case.arguments().values() if isinstance(value, torch.Tensor)]
        assert tensors
        assert not any(tensor.is_contiguous() for tensor in tensors), case.name


def test_cases_are_the_same_at_any_precision():
    for case in cases():
        wide, narrow = case.arguments(torch.float64), case.arguments(torch.float32)
        for name, value in wide.items():
            if isinstance(value, torch.Tensor):
                np.testing.assert_allclose(value, narrow[name], rtol=1e-6)
