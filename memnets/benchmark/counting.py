"""Counts what a step does: bytes moved by every operation it runs, arithmetic, and bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from memnets.ops.backend import BackendError, use_backend

Step = Callable[[], None]


class Traffic(TorchDispatchMode):
    """Counts the bytes of inputs and outputs of every operation that runs within it, forward and backward.

    Views and memory that is only set aside are free. A tensor counts whole, even if only some rows of it are needed.

    Args:
        inside: whether the ops of memnets count as what they run, or as their own arguments and results.
    """

    def __init__(self, inside: bool = False) -> None:
        super().__init__()
        self.bytes = 0
        self.kernels: set[str] = set()
        self._inside = inside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        if func.namespace == "memnets":
            self.kernels.add(str(func))
            if self._inside:
                return self._run_inside(func, args, kwargs)
        results = func(*args, **kwargs)
        self.bytes += _moved(func, args, kwargs, results)
        return results

    def _run_inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        device = next(leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        key = torch._C.DispatchKey.CUDA if device.type == "cuda" else torch._C.DispatchKey.CPU
        with self:
            return func.redispatch(torch._C.DispatchKeySet(key), *args, **kwargs)


def _moved(func: Any, args: Any, kwargs: Any, results: Any) -> int:
    if "empty" in func.__name__:
        return 0
    read, changed = _tensors((args, kwargs)), _tensors(_changed(func, args, kwargs))
    places = {_place(tensor) for tensor in read}
    made = [tensor for tensor in _tensors(results) if _place(tensor) not in places]
    if not made and not changed and _tensors(results):  # a view
        return 0
    return _nbytes([*read, *changed, *made])


def _changed(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Arguments that are written to."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    written = {argument.name for argument in func._schema.arguments if _is_written(argument)}
    return [value for name, value in given.items() if name in written]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree, each once."""
    return list({id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}.values())


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _nbytes(tensors: Iterable[Tensor]) -> int:
    """Expanded tensors count what they lie on."""
    return sum(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in tensors)


class Counted(NamedTuple):
    """What kernels moved, and whose they are."""

    backend: str
    bytes: int


def reference_bytes(step: Step) -> int:
    """Return the bytes of everything the reference runs."""
    with use_backend("reference"), Traffic() as traffic:
        step()
    return traffic.bytes


def kernel_bytes(step: Step, device: str) -> Counted | None:
    """Return what `auto` picks beside the reference and the bytes it moves; None if nothing serves."""
    if device == "cuda":
        return _triton_bytes(step, run=True)
    with Traffic() as traffic:
        step()
    return Counted("cpu", traffic.bytes) if traffic.kernels else None


def unmeasured_bytes(step: Step) -> int | None:
    """Return the bytes that Triton kernels would move on a GPU, by what they'd be called with; None without kernels."""
    counted = _triton_bytes(step, run=False)
    return counted and counted.bytes


def _triton_bytes(step: Step, run: bool) -> Counted | None:
    if find_spec("triton") is None:
        return None
    from memnets.kernels.triton.launch import recorded

    try:
        with use_backend("auto" if run else "triton"), recorded(run) as launches, Traffic(inside=True) as traffic:
            step()
    except BackendError:
        return None
    moved = sum(_nbytes(_tensors(launch.arguments)) for launch in launches)
    return Counted("triton", traffic.bytes + moved) if launches else None


def kept_bytes(step: Step, owned: Sequence[Tensor]) -> int:
    """Return the bytes of the tensors that autograd keeps for the backward pass, without those that exist anyway."""
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_place(tensor)] = tensor.untyped_storage()  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for place, storage in kept.items() if place not in set(map(_place, owned)))


def matrix_flops(step: Step) -> float | None:
    """Return the floating-point operations of the matrix products among what the reference runs; None without any."""
    with use_backend("reference"), FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) or None
