"""Times a kernel against its reference, in turns in one run, and against the machine's own matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from memnets.contracts import Spec
from memnets.models.ntm import NTM
from memnets.ops.backend import Backend, use_backend

PEAK_SIZE = 1024


@dataclass(frozen=True)
class Case:
    """What is timed: `step()` does it once, `flops` says how much arithmetic it needs at least."""

    name: str
    step: Callable[[], None]
    flops: float


@dataclass(frozen=True)
class NTMSizes:
    """The network of the NTM paper's copy task: LSTM-100, memory 128 x 20, a read and a write head, 41 steps."""

    time: int = 41
    inputs: int = 9
    outputs: int = 8
    hidden: int = 100
    slots: int = 128
    word: int = 20
    read_heads: int = 1
    write_heads: int = 1

    def flops(self) -> float:
        """Floating-point operations of one sequence, forward and backward, matrix products and memory alone.

        A product of matrices costs twice as much backward as forward; so does the memory's arithmetic.
        """
        heads, reads = self.read_heads + self.write_heads, self.read_heads * self.word
        interface = heads * (self.word + 6) + 2 * self.write_heads * self.word
        controller = 4 * self.hidden * (self.inputs + reads + self.hidden)
        linear = controller + interface * self.hidden + self.outputs * (self.hidden + reads)
        # Per word component and slot: a product per head and one for the norm, a read, four operations per write.
        memory = self.slots * self.word * (heads + 1 + self.read_heads + 2 * self.write_heads)
        return 3.0 * self.time * 2 * (linear + memory)


def ntm_step(batch: int) -> Case:
    """A training step on random bits: forward, loss, backward, Adam."""
    sizes = NTMSizes()
    torch.manual_seed(0)
    model = NTM(Spec("vectors", sizes.inputs, sizes.outputs))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs = torch.rand(batch, sizes.time, sizes.inputs).round()
    targets = torch.rand(batch, sizes.time, sizes.outputs).round()

    def step() -> None:
        optimizer.zero_grad()
        outputs, _ = model(inputs)
        F.binary_cross_entropy_with_logits(outputs, targets).backward()
        optimizer.step()

    return Case("ntm_step", step, sizes.flops() * batch)


CASES: dict[str, Callable[[int], Case]] = {"ntm_step": ntm_step}


def measure(case: str, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """One row: reference and kernel in milliseconds (the best of many, as others' load only ever adds) and their ratio.

    `percent_of_peak` is of the machine's own sgemm, measured in the same turns.
    """
    with _threads(threads):
        made = CASES[case](batch)
        turns = {"reference": _under("reference", made.step), "kernel": _under("cpu", made.step), "peak": _product()}
        times = _interleaved(turns, seconds)
    best = {name: min(values) for name, values in times.items()}
    gflops, peak = made.flops / best["kernel"] / 1e9, 2 * PEAK_SIZE**3 / best["peak"] / 1e9
    return {
        "case": case,
        "batch": batch,
        "threads": threads,
        "reference_ms": round(1e3 * best["reference"], 3),
        "kernel_ms": round(1e3 * best["kernel"], 3),
        "ratio": round(best["reference"] / best["kernel"], 1),
        "gflops": round(gflops, 1),
        "percent_of_peak": round(100 * gflops / peak, 1),
        "reference_median_ms": round(1e3 * statistics.median(times["reference"]), 3),
        "kernel_median_ms": round(1e3 * statistics.median(times["kernel"]), 3),
        "peak_gflops": round(peak, 1),
    }


def _interleaved(turns: dict[str, Callable[[], None]], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each, in rounds: as many calls of each as fit into an equal share of the time."""
    for run in turns.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in turns.items():
            times[name] += _calls(run, seconds / 30)
    return times


def _calls(run: Callable[[], None], seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        yield now - start
        if now > end:
            return


def _under(backend: Backend, step: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with use_backend(backend):
            step()

    return run


def _product() -> Callable[[], None]:
    left, right = torch.rand(2, PEAK_SIZE, PEAK_SIZE)
    result = torch.empty(PEAK_SIZE, PEAK_SIZE)

    def run() -> None:
        torch.mm(left, right, out=result)

    return run


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
