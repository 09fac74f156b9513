"""Every Triton kernel against its reference, in the interpreter where there is no GPU; and compiled ahead of time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_problems import wrong
from test_op_cases import floating_outputs
from test_ops import differentiable
from tiers import but_for_interpreted, but_for_long
from torch.testing import assert_close

from memnets.kernel_report import compiled_names, kernel_names
from memnets.kernels.triton import launch
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.cases import OPS, Case, cases
from memnets.ops.draw import SIZES, Sizes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = kernel_names()
ALL_CASES = [case for op in KERNELS for case in cases(op)]
QUICK = [next(cases(op)) for op in KERNELS]
SEEDS = 5


def on_cases(found, quick):
    """Test each case; those that are not `quick` are long in the interpreter."""
    return pytest.mark.parametrize("case", but_for_interpreted(found, quick.__contains__, lambda case: case.name))


def fewer(sizes):
    """Cases of these sizes, as the interpreter is slow; all of them where there is a GPU."""
    return [case for case in ALL_CASES if DEVICE == "cuda" or case.sizes in [SIZES[name] for name in sizes]]


def results(case, backend, dtype, seed=0, compute=None):
    """Floating outputs, and gradients of all arguments for random gradients of those; `compute`: in that precision."""
    arguments = case.arguments(dtype, DEVICE, seed)
    if compute:
        arguments = {k: v.to(compute) if is_floating(v) else v for k, v in arguments.items()}
    arguments, inputs = differentiable(arguments)
    with use_backend(backend):
        outputs = floating_outputs(case.function(**arguments))
        generator = torch.Generator().manual_seed(1)
        gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in outputs]
        found = torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in inputs)
    return [*outputs, *(zero if got is None else got for got, zero in zip(found, zeros, strict=True))]


def is_floating(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def compared(case, dtype):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    runs = (
        [results(case, "triton", dtype, seed), results(case, "reference", dtype, seed),
         results(case, "reference", dtype, seed, torch.float64)] for seed in range(SEEDS)
    )  # fmt: skip
    return list(zip(*runs, strict=True))


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @on_cases(ALL_CASES, quick=fewer(["odd", "strided"]))
    def test_float64(self, case):
        got, want = (results(case, backend, torch.float64) for backend in ("triton", "reference"))
        assert_close(got, want, rtol=1e-10, atol=1e-11)

    @on_cases([case for case in ALL_CASES if case.sizes.slots > 1], quick=QUICK)
    def test_float64_in_many_blocks(self, case, monkeypatch):
        """Where a memory fits no tile: every sum is then of several blocks, every shift goes from one to the next."""
        monkeypatch.setattr(launch, "TILE", 1)
        got, want = (results(case, backend, torch.float64) for backend in ("triton", "reference"))
        assert_close(got, want, rtol=1e-10, atol=1e-11)

    @on_cases(fewer(["odd", "one_row", "wide_shift", "strided"]), quick=QUICK)
    def test_float32_errs_no_more_than_the_reference(self, case):
        assert wrong(*compared(case, torch.float32)) == {}

    @on_cases(fewer(["odd", "strided"]), quick=QUICK[:2])
    def test_bfloat16_errs_no_more_than_the_reference(self, case):
        assert wrong(*compared(case, torch.bfloat16), torch.bfloat16) == {}

    @pytest.mark.parametrize("op", but_for_interpreted(KERNELS, KERNELS[0].__eq__))
    def test_a_wrong_row_is_caught(self, op):
        case = next(cases(op))
        actual, reference, exact = compared(case, torch.float32)
        for i in range(len(actual[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    @on_cases(fewer(["odd"]), quick=QUICK)
    def test_repeats_bit_for_bit(self, case):
        one, two = (results(case, "triton", torch.float32) for _ in range(2))
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))


class TestOp:
    @pytest.mark.parametrize("batch", but_for_interpreted([1, 3], lambda batch: batch == 3))
    @pytest.mark.parametrize("op", but_for_interpreted(KERNELS, KERNELS[:2].__contains__))
    def test_torch_knows_it(self, op, batch):
        for call in OPS[op].calls:
            arguments, _ = differentiable(Case(op, call, Sizes(batch=batch), call).arguments(torch.float32, DEVICE))
            torch.library.opcheck(getattr(torch.ops.memnets, op).default, (), arguments)

    @pytest.mark.parametrize("op", KERNELS)
    def test_auto_takes_it_on_a_gpu_only(self, op):
        """The interpreter is a thousand times slower than the reference."""
        with launch.recorded(run=True) as launches:
            results(next(cases(op)), "auto", torch.float32)
        assert bool(launches) == (DEVICE == "cuda")

    @pytest.mark.parametrize("op", KERNELS)
    def test_says_what_it_cant_serve(self, op):
        arguments = next(cases(op)).arguments(device="meta")
        with use_backend("triton"), pytest.raises(BackendError, match=f"can't run {op}: tensors are on meta"):
            OPS[op].function(**arguments)


@pytest.mark.parametrize("op", but_for_long(compiled_names(), "ntm_sequence".__eq__))
def test_compiles_without_spills(op, capsys):
    """For four GPUs, none of which needs to be here; the table of registers and shared memory goes to the log."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).parents[1] / "scripts" / "compile_kernels.py"
    done = subprocess.run([sys.executable, script, f"op={op}"], capture_output=True, text=True, env=environment)
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
