"""Rows of the benchmark as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memnets.analysis.kernels import MEMORY, TEXT, TIME, KernelRecord, cells

WIDTH = 1000
"""Characters a line may have where there is no terminal: more than any table needs, so that no word is broken."""

NOTES = """\
ms: the best of many, in turns, forward and backward; ratio: reference to kernel; compiled: the reference under
torch.compile. Rates are the kernel's, or the reference's where there is none (-): GFLOP/s of matrix products, GB/s of
the fewest MB; % of the machine's own product of matrices and copy, in the same turns (caches can be faster than a
copy). MB: inputs and outputs of all that runs; fewest: arguments, results and gradients, once. kept KB: by autograd,
per step and sequence. Where kernel ms is - and kernel MB is not, a Triton kernel was counted by its launches, but not
timed."""


def show(records: Sequence[KernelRecord], stderr: bool = False) -> None:
    """Print times, then memory, then what the columns mean."""
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=WIDTH)
    for columns in (TIME, MEMORY):
        console.print(_drawn(records, columns))
    for told in dict.fromkeys(f"{each.device}, torch {each.torch}" for each in records):
        console.print(told, highlight=False)
    console.print(NOTES, highlight=False, soft_wrap=True)


def _drawn(records: Sequence[KernelRecord], columns: Mapping[str, str]) -> Table:
    drawn = Table(box=SIMPLE_HEAD, header_style="bold cyan", pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        drawn.add_column(name, justify="left" if name in TEXT else "right", no_wrap=name in TEXT)
    for row in cells(records, columns):
        drawn.add_row(*row)
    return drawn
