"""Timings of kernels as records: what `scripts/benchmark.py` measures, its CSV, and its table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memnets.analysis.measured import Measured

KERNELS = "kernels.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class KernelRecord(Measured):
    """One problem, forward and backward: the fields are the CSV's columns. None: there is no such thing.

    Attributes:
        case: an op, or a machine's training step, such as `ntm_step`.
        reference_ms: the best of many, in turns with the others; so are all times. None where it would take too long.
        kernel_ms: of what `auto` picks beside the reference.
        gflops: of the kernel, of the reference where there is none; arithmetic of matrix products alone in an op.
        percent_of_peak: of the machine's own matrix product, in the same turns.
        kernel: the backend that was timed.
        compile_ms: of the reference under torch.compile.
        compile_s: what compiling took.
        gb_per_s: the fewest bytes, by the kernel's time (the reference's where there is none).
        percent_of_copy: of the machine's own copy, in the same turns; beyond 100 what caches hold.
        reference_mb: bytes of inputs and outputs of everything the reference runs.
        kernel_mb: of everything the kernel runs; a Triton kernel is counted without a GPU too.
        fewest_mb: of every argument, result and gradient, once.
        reference_kept_kb: what autograd keeps for the backward pass, per step and sequence.
        kept_kb: the same of the kernel.
    """

    case: str
    batch: int
    reference_ms: float | None
    kernel_ms: float | None
    ratio: float | None
    gflops: float | None
    percent_of_peak: float | None
    kernel: str
    heads: int
    slots: int
    word: int
    time: int
    compile_ms: float | None
    compile_s: float | None
    reference_median_ms: float | None
    kernel_median_ms: float | None
    peak_gflops: float
    gb_per_s: float
    percent_of_copy: float
    copy_gb_per_s: float
    reference_mb: float | None
    kernel_mb: float | None
    fewest_mb: float
    reference_kept_kb: float | None
    kept_kb: float | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.case, self.batch, self.heads, self.slots, self.word, self.time, self.threads, self.device

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU ran it."""
        return not self.device.startswith("cpu")

    @property
    def where(self) -> str:
        """Where it ran, in short: `AMD EPYC, 1 thread`."""
        name = self.device.removeprefix("cpu").strip(" ()").replace("(R)", "").replace(" Processor", "")
        return self.device if self.on_gpu else f"{name or 'cpu'}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def counted(self) -> str:
        """Whose bytes are `kernel_mb`."""
        return "triton" if self.kernel == "-" and self.kernel_mb is not None else self.kernel


PROBLEM = {"case": "case", "batch": "batch", "heads": "heads", "slots": "slots", "word": "word", "time": "time"}
TIME = PROBLEM | {
    "on": "where",
    "reference ms": "reference_ms",
    "compiled ms": "compile_ms",
    "compiling s": "compile_s",
    "kernel ms": "kernel_ms",
    "ratio": "ratio",
    "GFLOP/s": "gflops",
    "% of peak": "percent_of_peak",
    "GB/s": "gb_per_s",
    "% of copy": "percent_of_copy",
}
MEMORY = PROBLEM | {
    "kernel": "counted",
    "reference MB": "reference_mb",
    "kernel MB": "kernel_mb",
    "fewest MB": "fewest_mb",
    "reference kept KB": "reference_kept_kb",
    "kernel kept KB": "kept_kb",
}
"""Two tables: what stands over each column, and what of a record stands in it."""


def cells(records: Sequence[KernelRecord], columns: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return rows of text under `columns`, each once."""
    return list(dict.fromkeys(tuple(_cell(getattr(record, name)) for name in columns.values()) for record in records))


def render_kernels(records: Sequence[KernelRecord]) -> str:
    """Return the records in Markdown: times, memory, where they come from, and whether a GPU ran any."""
    missing = [] if any(record.on_gpu for record in records) else ["- GPU: not measured on a GPU"]
    return "\n".join([*_table(records, TIME), "", *_table(records, MEMORY), "", *_origins(records), *missing])


def _table(records: Sequence[KernelRecord], columns: Mapping[str, str]) -> list[str]:
    rule = "|" + "|".join("---" if name in TEXT else "---:" for name in columns) + "|"
    head, *body = ["| " + " | ".join(row) + " |" for row in [tuple(columns), *cells(records, columns)]]
    return [head, rule, *body]


TEXT = ("case", "on", "kernel")
"""Columns of words."""


def _origins(records: Sequence[KernelRecord]) -> list[str]:
    """Return one line per command, with the median of the peaks that were measured beside each of its rows."""
    made: dict[tuple[str, ...], list[KernelRecord]] = {}
    for each in records:
        made.setdefault((each.where, each.device, each.torch, each.command, each.commit, each.date), []).append(each)
    return [
        f"- {_names(part)}, {where}: {device}, torch {torch}, peak {_median(part, 'peak_gflops')} GFLOP/s, "
        f"copy {_median(part, 'copy_gb_per_s')} GB/s: `{command}` at {commit}, {date}"
        for (where, device, torch, command, commit, date), part in made.items()
    ]


def _names(records: Sequence[KernelRecord]) -> str:
    return ", ".join(dict.fromkeys(record.case for record in records))


def _median(records: Sequence[KernelRecord], name: str) -> str:
    return _cell(statistics.median(getattr(record, name) for record in records))


def _cell(value: str | int | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.3g}"
