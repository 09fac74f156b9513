"""Something to time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from memnets.ops.draw import Sizes

Step = Callable[[], None]


@dataclass(frozen=True)
class Problem:
    """Something to time, forward and backward.

    Attributes:
        sizes: `time` is 1 where there is no such axis.
        step: does it once, on the backend that holds.
        compiled: makes the same under torch.compile; the first call of what it returns compiles.
        fewest_bytes: of every argument, result and gradient, once.
        flops: of matrix products and memory, where a formula tells; else they are counted.
        owned: what is there whether or not autograd keeps it.
        num_steps: steps of all sequences; None for an op, which is part of a step.
        has_reference: whether the reference can do it too; else it would take too long, or too much memory.
    """

    name: str
    sizes: Sizes
    step: Step
    compiled: Callable[[], Step]
    fewest_bytes: int
    flops: float | None = None
    owned: tuple[Tensor, ...] = ()
    num_steps: int | None = None
    has_reference: bool = True


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all of them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
