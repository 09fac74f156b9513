"""Which implementation of an op runs: its reference in plain PyTorch, or a kernel."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from types import TracebackType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from memnets.kernels import build

Backend = Literal["auto", "reference", "cpu", "triton"]
KERNELS: tuple[Backend, ...] = ("triton", "cpu")
"""In the order `auto` tries them."""

_log = logging.getLogger(__name__)
_current: Backend = "auto"


class BackendError(RuntimeError):
    """A backend asked for by name can't serve a call; the message says why."""


class use_backend:
    """Choose the backend of all ops from here on; as a context manager, until its end.

    `auto` takes the fastest backend that serves a call and never changes results beyond rounding; `reference` is plain
    PyTorch. `cpu` and `triton` raise a BackendError where they can't serve.

    Raises:
        ValueError: no such backend.
    """

    def __init__(self, name: Backend) -> None:
        global _current
        if name not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, not {name!r}")
        self._before, _current = _current, name

    def __enter__(self) -> None:
        """Nothing: the choice holds already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._before


def current_backend() -> Backend:
    """Return what was chosen."""
    return _current


Obstacle = Callable[[], str | None]
"""Why a backend can't serve a call, None if it can."""


def choose(op: str, obstacles: Mapping[str, Obstacle]) -> Backend:
    """Return the backend that serves a call of `op`: never `auto`.

    A kernel that isn't among `obstacles` doesn't exist. Why `auto` takes the reference is logged, once per
    op and reasons.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    if _current == "reference":
        return _current
    if _current != "auto":
        reason = obstacles[_current]() if _current in obstacles else f"{op} has no kernel for it"
        if reason is not None:
            raise BackendError(
                f"backend {_current!r} can't run {op}: {reason}; backend 'auto' takes what can (runtime.backend=auto)"
            )
        return _current
    reasons = []
    for name in KERNELS:
        if name in obstacles:
            reason = obstacles[name]()
            if reason is None:
                return name
            if reason not in reasons:
                reasons.append(reason)
    if reasons and not torch.compiler.is_compiling():
        _log_once(f"{op} runs its reference: {'; '.join(reasons)}")
    return "reference"


def triton_obstacle(*tensors: Tensor | None, mixed: bool = False, vmap: bool = False) -> str | None:
    """Return why Triton kernels can't serve these tensors, None if they can.

    They run on one GPU; in Triton's interpreter (TRITON_INTERPRET=1) on the CPU too, if asked for by name. They take
    one floating dtype, unless `mixed`, no transform of torch.func, unless it is `vmap`, and no derivatives forward.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if _current == "auto" and given[0].is_cpu:
        return "tensors are on cpu, it runs on a GPU"  # most calls on a CPU, so first and fast
    elsewhere = sorted({tensor.device.type for tensor in given} - {"cuda"})
    if elsewhere and (_current != "triton" or elsewhere != ["cpu"]):
        return f"tensors are on {elsewhere[0]}, it runs on a GPU"
    if len({tensor.device for tensor in given}) > 1:
        return "tensors are on several devices"
    if not mixed and len({tensor.dtype for tensor in given if tensor.is_floating_point()}) > 1:
        return "tensors are of several floating dtypes"
    if given[0].numel() == 0:
        return "there is nothing to run: the batch or the memory is empty"
    return _triton_missing(on_cpu=bool(elsewhere)) or transform_obstacle(vmap)


def _triton_missing(on_cpu: bool) -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed: pip install 'memnets[triton]'"
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
        return f"Triton {triton.__version__} is too old: 3.4 is needed"
    from memnets.kernels.triton.launch import interpreting, recording

    if on_cpu and not interpreting() and not recording():
        return "tensors are on cpu, it runs on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1)"
    return None


def transform_obstacle(vmap: bool = False) -> str | None:
    """Return why no kernel can serve where derivatives go forward, or torch.func transforms; None if one can.

    Of transforms a kernel may serve `vmap`.
    """
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives can't go through it"
    if not torch._C._are_functorch_transforms_active():
        return None
    if not vmap:
        return "torch.func transforms can't look into it"
    levels = torch._C._functorch.get_interpreter_stack() or []
    if all(level.key() == torch._C._functorch.TransformType.Vmap for level in levels):
        return None
    return "of torch.func's transforms, it can be seen through by vmap alone"


_built: dict[str, str | None] = {}
_warned: set[str] = set()


def build_obstacle(name: str, register: Callable[[], None]) -> str | None:
    """Return why the C++ kernel `name` can't be had, None if it is loaded; `register` is called once it is.

    What `auto` then does without is told in one warning. (Plain dictionaries, as torch.compile can look through them.)
    """
    if name not in _built:
        _built[name] = _load(name, register)
    reason = _built[name]
    if reason and _current == "auto" and name not in _warned:
        _warned.add(name)
        warnings.warn(f"{name} runs its slower reference: {reason}", stacklevel=2)
    return reason


def _load(name: str, register: Callable[[], None]) -> str | None:
    try:
        build.load(name)
    except build.BuildError as error:
        return str(error)
    register()
    return None


@cache
def _log_once(message: str) -> None:
    _log.info(message)
