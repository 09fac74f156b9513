"""One row of results: a problem's reference and its kernel in turns, against what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from memnets.analysis.kernels import KernelRecord
from memnets.analysis.rows import commit_of, device_of
from memnets.benchmark.cases import problem
from memnets.benchmark.counting import kept_bytes, kernel_bytes, matrix_flops, reference_bytes, unmeasured_bytes
from memnets.benchmark.problem import Problem, Step
from memnets.benchmark.timing import Seconds, copy, copy_bytes, in_turns, product, product_flops, threads
from memnets.ops.backend import Backend, use_backend
from memnets.ops.draw import Sizes
from memnets.training.logger import environment

Values = dict[str, Any]


def provenance(device: str) -> Values:
    """Return where rows come from: of the machine, and of the code as it is now."""
    made_by = environment(torch.device(device))
    return {
        "device": device_of(made_by),
        "torch": torch.__version__,
        "command": made_by["command"],
        "commit": commit_of(made_by),
        "date": made_by["started"][:10],
    }


def measure(
    case: str, sizes: Sizes, num_threads: int, seconds: float, device: str, compiles: bool, made_by: Values
) -> KernelRecord:
    """Time a case for so many seconds, with torch.compile if it `compiles`, and count what it moves."""
    with threads(num_threads):
        made = problem(case, sizes, device)
        traffic = _traffic(made, device)
        compile_s, compiled = _compiled(made, device) if compiles and made.has_reference else (None, None)
        times = _times(made, compiled, traffic["kernel"] != "-", seconds, device)
        flops = made.flops or matrix_flops(made.step)
    axes = {axis: getattr(made.sizes, axis) for axis in ("batch", "heads", "slots", "word", "time")}
    rows = _milliseconds(times) | _rates(times, made.fewest_bytes, flops, device)
    return KernelRecord(case=case, threads=num_threads, compile_s=compile_s, **axes, **rows, **traffic, **made_by)


def _traffic(made: Problem, device: str) -> Values:
    counted = kernel_bytes(made.step, device)
    moved = counted.bytes if counted else unmeasured_bytes(made.step)
    return {
        "kernel": counted.backend if counted else "-",
        "reference_mb": _rounded(reference_bytes(made.step) / 1e6) if made.has_reference else None,
        "kernel_mb": _rounded(moved and moved / 1e6),
        "fewest_mb": _rounded(made.fewest_bytes / 1e6),
        "reference_kept_kb": _kept(made, "reference"),
        "kept_kb": _kept(made, "auto") if counted else None,
    }


def _kept(made: Problem, backend: Backend) -> float | None:
    """Kilobytes that autograd keeps, per step and sequence."""
    if made.num_steps is None:
        return None
    return _rounded(kept_bytes(_under(backend, made.step), made.owned) / made.num_steps / 1e3)


def _compiled(made: Problem, device: str) -> tuple[float, Step]:
    """Seconds that compiling takes, and the compiled step."""
    torch.compiler.reset()
    step = _under("reference", made.compiled())
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return round(time.perf_counter() - start, 1), step


def _times(made: Problem, compiled: Step | None, has_kernel: bool, seconds: float, device: str) -> dict[str, Seconds]:
    """Seconds of what there is, and of the machine's own product and copy."""
    turns = {"peak": product(device), "copy": copy(device)}
    if made.has_reference or not has_kernel:
        turns = {"reference": _under("reference", made.step)} | turns
    if has_kernel:
        turns["kernel"] = _under("auto", made.step)
    if compiled:
        turns["compile"] = compiled
    return in_turns(turns, seconds, device)


def _milliseconds(times: dict[str, Seconds]) -> Values:
    def of(name: str, part: str) -> float | None:
        return round(1e3 * getattr(times[name], part), 4) if name in times else None

    ratio = times["reference"].best / times["kernel"].best if {"kernel", "reference"} <= times.keys() else None
    return {
        "reference_ms": of("reference", "best"),
        "reference_median_ms": of("reference", "median"),
        "kernel_ms": of("kernel", "best"),
        "kernel_median_ms": of("kernel", "median"),
        "compile_ms": of("compile", "best"),
        "ratio": _rounded(ratio),
    }


def _rates(times: dict[str, Seconds], fewest_bytes: int, flops: float | None, device: str) -> Values:
    """Of the kernel, of the reference where there is none."""
    best = times["kernel" if "kernel" in times else "reference"].best
    peak, copied = product_flops(device) / times["peak"].best, copy_bytes(device) / times["copy"].best
    return {
        "gflops": _rounded(flops and flops / best / 1e9),
        "percent_of_peak": _rounded(flops and 100 * flops / best / peak),
        "peak_gflops": _rounded(peak / 1e9),
        "gb_per_s": _rounded(fewest_bytes / best / 1e9),
        "percent_of_copy": _rounded(100 * fewest_bytes / best / copied),
        "copy_gb_per_s": _rounded(copied / 1e9),
    }


def _under(backend: Backend, step: Step) -> Callable[[], None]:
    def run() -> None:
        with use_backend(backend):
            step()

    return run


def _rounded(value: float | None) -> float | None:
    """Four digits: more than timing has."""
    return None if value is None else float(f"{value:.4g}")
