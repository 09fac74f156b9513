"""Times several callables in turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

ROUNDS = 10
PEAK_SIZE = {"cpu": 1024, "cuda": 4096}
COPY_NUMBERS = {"cpu": 2**24, "cuda": 2**28}
"""Rows of the squares that are multiplied, and numbers that are copied: more than caches hold."""

Run = Callable[[], None]


class Seconds(NamedTuple):
    """Of one call: the best of many, as others' load only ever adds; and the median."""

    best: float
    median: float


def in_turns(turns: Mapping[str, Run], seconds: float, device: str) -> dict[str, Seconds]:
    """Return the time of a call of each, in rounds: as many calls of each as fit into an equal share of the time."""
    for run in turns.values():
        run()
        run()
    timed = _on_gpu if device == "cuda" else _on_cpu
    times: dict[str, list[list[float]]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in turns.items():
            times[name].append(timed(run, seconds / (ROUNDS * len(turns))))
    return {name: _summary(rounds) for name, rounds in times.items()}


def _summary(rounds: list[list[float]]) -> Seconds:
    values = [value for values in rounds for value in values]
    return Seconds(min(values), statistics.median(values))


def _on_cpu(run: Run, seconds: float) -> list[float]:
    values = []
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        values.append(now - start)
        if now > end:
            return values


def _on_gpu(run: Run, seconds: float) -> list[float]:
    """Triton's own timing: between events on the device, its cache emptied before each call."""
    from triton.testing import do_bench

    quantiles = [i / 20 for i in range(21)]
    return [value / 1e3 for value in do_bench(run, warmup=5, rep=max(1, int(1e3 * seconds)), quantiles=quantiles)]


def product(device: str, dtype: torch.dtype = torch.float32) -> Run:
    """Return a product of square matrices: the peak that arithmetic is held against."""
    left, right = torch.rand(2, PEAK_SIZE[device], PEAK_SIZE[device], device=device, dtype=dtype)
    result = torch.empty_like(left)

    def run() -> None:
        torch.mm(left, right, out=result)

    return run


def product_flops(device: str) -> float:
    """Return the floating-point operations of the product."""
    return 2.0 * PEAK_SIZE[device] ** 3


def copy(device: str) -> Run:
    """Return a copy in memory: the peak that bytes are held against."""
    source = torch.rand(COPY_NUMBERS[device], device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)

    return run


def copy_bytes(device: str) -> float:
    """Return the bytes that the copy reads and writes."""
    return 2.0 * 4 * COPY_NUMBERS[device]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
