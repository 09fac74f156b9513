"""How Triton kernels are launched: where they can run, in what precision, and a record of launches for the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024
"""Numbers of a memory one program holds at a time, unless a single slot is wider."""


class Launch(NamedTuple):
    """A kernel with the arguments it is called with; `constants` are compiled in.

    `max_registers`, unless 0, is what a thread may have on NVIDIA: left alone, the assembler spills a few registers
    where that lets more programs share a multiprocessor.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    max_registers: int = 0

    def options(self, nvidia: bool) -> dict[str, Any]:
        """What the compiler is told."""
        most = {"maxnreg": self.max_registers} if self.max_registers and nvidia else {}
        return {"num_warps": self.num_warps, **most}


_record: list[Launch] | None = None
_runs = True
"""Whether what is recorded runs too."""


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, max_registers: int = 0, **constants: Any
) -> None:
    """Run a kernel, every argument of a size or kind that code depends on among `constants`."""
    made = Launch(kernel, arguments, constants, num_warps, max_registers)
    if _record is not None:
        _record.append(made)
    if _runs and 0 not in grid:
        device = next(value for value in arguments if isinstance(value, Tensor))
        with torch.cuda.device_of(device):  # Triton launches on the current GPU, which may be another
            kernel[grid](*arguments, **constants, **made.options(nvidia=torch.version.hip is None))


@contextmanager
def recorded(run: bool = False) -> Iterator[list[Launch]]:
    """Collect launches; unless they `run` too, results hold what their memory held."""
    global _record, _runs
    _record, _runs = [], run
    try:
        yield _record
    finally:
        _record, _runs = None, True


def recording() -> bool:
    """Whether launches are collected."""
    return _record is not None


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1 when they were imported)."""
    return bool(triton.knobs.runtime.interpret)


def compute_type(*tensors: Tensor | None) -> Any:
    """What a kernel computes in: float32, or float64 where an argument has it."""
    return tl.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else tl.float32


def ceil_power(size: int) -> int:
    """Return the next power of two, what a tile's axes must be."""
    return triton.next_power_of_2(max(size, 1))


def block_slots(slots: int, word: int, tiles: int = 1) -> int:
    """How many slots of `word` numbers fit so many tiles."""
    return max(1, min(ceil_power(slots), tiles * TILE // ceil_power(word)))
