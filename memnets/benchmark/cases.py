"""What is timed: every op at realistic sizes, found by name, and a training step of an NTM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memnets.contracts import Spec
from memnets.models.ntm import NTM
from memnets.ops.backend import use_backend
from memnets.ops.cases import OPS, Case, Sizes

STEP = "ntm_step"
"""The name of the training step, beside those of the ops."""

OP_SIZES = (
    Sizes(batch=64, heads=2, slots=128, word=20, time=8, k=4),
    Sizes(batch=16, heads=4, slots=4096, word=64, time=8, k=8),
)
"""The NTM paper's memory, and one of sparse access."""

STEP_SIZES = Sizes(heads=2, slots=128, word=20, time=41)
STEP_BATCHES = (1, 16, 64)
INPUTS, OUTPUTS, HIDDEN = 9, 8, 100
"""The NTM paper's copy task: LSTM-100, memory 128 x 20, a read and a write head; 20 vectors make 41 steps."""

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
    """

    name: str
    sizes: Sizes
    step: Step
    compiled: Callable[[], Step]
    fewest_bytes: int
    flops: float | None = None
    owned: tuple[Tensor, ...] = ()
    num_steps: int | None = None


def names() -> list[str]:
    """Return what can be timed."""
    return [STEP, *OPS]


def sizes_of(name: str, batch: Sequence[int] = (), time: Sequence[int] = (), slots: Sequence[int] = ()) -> list[Sizes]:
    """Return the sizes at which a case is timed; lists that aren't empty take the place of its own values."""
    batch = batch or (STEP_BATCHES if name == STEP else ())
    return [
        replace(own, batch=b, time=t, slots=n)
        for own in ([STEP_SIZES] if name == STEP else OP_SIZES)
        for t in time or [own.time]
        for n in slots or [own.slots]
        for b in batch or [own.batch]
    ]


def problem(name: str, sizes: Sizes, device: str = "cpu") -> Problem:
    """Return a problem of one of the `names`."""
    return ntm_step(sizes, device) if name == STEP else op(name, sizes, device)


def op(name: str, sizes: Sizes, device: str) -> Problem:
    """An op's first call among its cases, and the gradients of all its floating arguments."""
    case = Case(name, next(iter(OPS[name].calls)), sizes, name)
    arguments = case.arguments(device=device)
    tensors = _tensors(arguments)
    inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    with use_backend("reference"):
        results = _tensors(case.function(**arguments))
    gradients = [torch.ones_like(result) for result in results if result.requires_grad]

    def bound(function: Callable[..., Any]) -> Step:
        def step() -> None:
            differentiable = [result for result in _tensors(function(**arguments)) if result.requires_grad]
            if differentiable:
                torch.autograd.grad(differentiable, inputs, gradients, allow_unused=True)

        return step

    moved = [*tensors, *results, *gradients, *(inputs if gradients else [])]
    return Problem(
        name,
        sizes if _has_time(case) else replace(sizes, time=1),
        bound(case.function),
        lambda: bound(torch.compile(case.function, dynamic=False)),
        fewest_bytes=_nbytes(moved),
        owned=(*tensors, *gradients),
    )


def _has_time(case: Case) -> bool:
    """Whether an argument's shape depends on `time`."""
    one, two = (_tensors(case._replace(sizes=Sizes(time=time)).arguments()) for time in (1, 2))
    return [tensor.shape for tensor in one] != [tensor.shape for tensor in two]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def ntm_step(sizes: Sizes, device: str) -> Problem:
    """A training step on random bits: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    inputs, targets = (torch.rand(sizes.batch, sizes.time, width).round().to(device) for width in (INPUTS, OUTPUTS))

    def model() -> NTM:
        return NTM(Spec("vectors", INPUTS, OUTPUTS), memory_size=sizes.slots, word_size=sizes.word).to(device)

    def compiled() -> Step:
        """The cell is compiled, as in training: the loop would be anew for each length."""
        other = model()
        other.compiled_part().compile(dynamic=False)
        return _training(other, inputs, targets)

    trained = model()
    parameters = list(trained.parameters())
    # Weights and both moments are read and written, gradients made.
    moved = [inputs, targets, *parameters * 7]
    return Problem(
        STEP,
        sizes,
        _training(trained, inputs, targets),
        compiled,
        _nbytes(moved),
        step_flops(sizes),
        owned=(inputs, targets, *parameters),
        num_steps=sizes.batch * sizes.time,
    )


def _training(model: NTM, inputs: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        outputs, _ = model(inputs)
        F.binary_cross_entropy_with_logits(outputs, targets).backward()
        optimizer.step()

    return step


def step_flops(sizes: Sizes) -> float:
    """Floating-point operations of a training step, matrix products and memory alone, half the heads reading.

    A product of matrices costs twice as much backward as forward; so does the memory's arithmetic.
    """
    reads = writes = sizes.heads // 2
    interface = sizes.heads * (sizes.word + 6) + 2 * writes * sizes.word
    controller = 4 * HIDDEN * (INPUTS + reads * sizes.word + HIDDEN)
    linear = controller + interface * HIDDEN + OUTPUTS * (HIDDEN + reads * sizes.word)
    # Per word component and slot: a product per head and one for the norm, a read, four operations per write.
    memory = sizes.slots * sizes.word * (sizes.heads + 1 + reads + 2 * writes)
    return 3.0 * sizes.batch * sizes.time * 2 * (linear + memory)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
