"""Rows of the benchmark as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memnets.analysis.kernels import HEADER, KernelRecord, cells

WIDTH = 200
"""Characters of a line where there is no terminal."""

NOTES = """\
ms: the best of many, in turns, forward and backward; ratio: reference to kernel. Rates are the kernel's, or the
reference's where there is none (-): GFLOP/s of matrix products, GB/s of the fewest MB; % of the machine's own product
of matrices and copy, in the same turns (caches can be faster than a copy). MB: inputs and outputs of all that runs;
fewest: arguments, results and gradients, once. kept KB: by autograd, per step and sequence. Where kernel ms is - and
kernel MB is not, a Triton kernel was counted by its launches, but not timed."""


def show(records: Sequence[KernelRecord], file: TextIO) -> None:
    """Print the table, and below it what its columns mean."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=WIDTH)
    drawn = Table(box=SIMPLE_HEAD, header_style="bold cyan", pad_edge=False)
    for column, name in enumerate(HEADER):
        drawn.add_column(name, justify="right" if column > 1 else "left", overflow="fold")
    for record in records:
        drawn.add_row(*cells(record))
    console.print(drawn)
    for told in dict.fromkeys(f"{each.device}, threads: {each.threads}, torch {each.torch}" for each in records):
        console.print(told, highlight=False)
    console.print(NOTES, highlight=False, soft_wrap=True)
