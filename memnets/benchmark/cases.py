"""What is timed: every op at realistic sizes, found by name, and a training step of every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memnets.benchmark.problem import Problem, Step, nbytes
from memnets.benchmark.steps import BATCHES, STEPS, training_step
from memnets.benchmark.stories import BATCH, STORY_STEPS, story_step
from memnets.ops.backend import use_backend
from memnets.ops.cases import OPS, Case
from memnets.ops.draw import Sizes

OP_SIZES = (
    Sizes(batch=64, heads=2, slots=128, word=20, time=8, k=4),
    Sizes(batch=16, heads=4, slots=4096, word=64, time=8, k=8),
)
"""The NTM paper's memory, and one of sparse access."""

SEARCH_SIZES = Sizes(batch=1, heads=1, slots=8192, word=64, time=512, k=32)
"""A segment's queries of a memory beyond a Transformer's window."""
HALF_KEY_SIZES = Sizes(batch=2048, heads=4, slots=512, word=64, k=32)
GATHER_SIZES = Sizes(batch=2048, heads=1, slots=512**2, word=256, k=4 * 32)
"""A product-key memory of 512² slots, asked by 2048 steps: its search, and its values, all heads in one sum."""
OWN_SIZES = dict.fromkeys(("topk_address", "read_slots"), (*OP_SIZES, SEARCH_SIZES)) | {
    "product_key_address": (*OP_SIZES, HALF_KEY_SIZES),
    "weighted_gather": (*OP_SIZES, GATHER_SIZES),
}
MOST_SCORES = 2**25
"""What a reference that sorts all scores is given to sort."""


def names() -> list[str]:
    """Return what can be timed."""
    return [*STEPS, *STORY_STEPS, *OPS]


def sizes_of(name: str, batch: Sequence[int] = (), time: Sequence[int] = (), slots: Sequence[int] = ()) -> list[Sizes]:
    """Return the sizes at which a case is timed; lists that aren't empty take the place of its own values."""
    batch = batch or (BATCHES if name in STEPS else [BATCH] if name in STORY_STEPS else ())
    made = [
        replace(own, batch=b, time=t, slots=n, k=min(own.k, n))
        for own in _own_sizes(name)
        for t in time or [own.time]
        for n in slots or [own.slots]
        for b in batch or [own.batch]
    ]
    return list(dict.fromkeys(made))


def _own_sizes(name: str) -> Sequence[Sizes]:
    if name in STORY_STEPS:
        return STORY_STEPS[name].sizes
    return [STEPS[name].sizes] if name in STEPS else OWN_SIZES.get(name, OP_SIZES)


def problem(name: str, sizes: Sizes, device: str = "cpu") -> Problem:
    """Return a problem of one of the `names`."""
    if name in STORY_STEPS:
        return story_step(name, sizes, device)
    return training_step(name, sizes, device) if name in STEPS else op(name, sizes, device)


def sequences(name: str, sizes: Sizes) -> int | None:
    """Return how many sequences or stories a training step learns from; None for an op."""
    return None if name in OPS else sizes.batch * (STORY_STEPS[name].networks if name in STORY_STEPS else 1)


def op(name: str, sizes: Sizes, device: str) -> Problem:
    """An op's first call among its cases, and the gradients of all its floating arguments."""
    case = Case(name, next(iter(OPS[name].calls)), sizes, name)
    arguments = case.arguments(device=device)
    tensors = _tensors(arguments)
    inputs = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    scores = sizes.batch * sizes.heads * sizes.time * sizes.slots if name == "topk_address" else 0
    has_reference = scores <= MOST_SCORES
    with use_backend("reference" if has_reference else "auto"):
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
        fewest_bytes=nbytes(moved),
        flops=None if has_reference else 2.0 * scores * sizes.word,
        owned=(*tensors, *gradients),
        has_reference=has_reference,
    )


def _has_time(case: Case) -> bool:
    """Whether an argument's shape depends on `time`."""
    one, two = (_tensors(case._replace(sizes=Sizes(time=time)).arguments()) for time in (1, 2))
    return [tensor.shape for tensor in one] != [tensor.shape for tensor in two]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
