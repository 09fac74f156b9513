"""Ops whose kernels run replicas, networks of equal sizes, side by side: what to do under `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _unwrap_batched
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_current_functorch_interpreter

Given = tuple[Tensor | None, ...]
Run = Callable[[Given, tuple[Any, ...]], Tensor]
"""From an op's tensors, with an axis of replicas first, and its options to `[replicas * batch ...]`."""


def over_replicas(run: Run, given: Given, options: tuple[Any, ...], replicas: bool = False) -> Tensor:
    """Return `[batch ...]`, behind an axis of replicas if the tensors given have one or vmap goes over one.

    It is what torch does with an op's rule for vmap, with fewer calls of Python.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return _under_vmap(run, given, options, replicas)
    if not replicas:
        return run(tuple(None if tensor is None else tensor[None] for tensor in given), options)[0]
    return run(given, options)


def _under_vmap(run: Run, given: Given, options: tuple[Any, ...], replicas: bool) -> Tensor:
    vmapped = retrieve_current_functorch_interpreter()
    assert isinstance(vmapped, VmapInterpreter)
    level, size = vmapped.level(), vmapped.batch_size()
    with vmapped.lower():
        pairs = (None if tensor is None else _unwrap_batched(tensor, level) for tensor in given)
        whole = tuple(None if pair is None else in_front(*pair, size, replicas) for pair in pairs)
        found = over_replicas(run, whole, options, True)
        return _add_batch_dim(found.unflatten(0, (size, -1)) if replicas else found, 0, level)


def in_front(tensor: Tensor, dim: int | None, size: int, replicas: bool) -> Tensor:
    """Move the axis that vmap goes over to the front, and into that of the replicas if there is one."""
    moved = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return moved.flatten(0, 1) if replicas else moved
