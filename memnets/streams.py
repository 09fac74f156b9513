"""Random numbers of a forward pass: the global generator's, or, where replicas run as one, each replica's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

VMAP_MODE = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchVmapMode)
_streams: list[torch.Generator] = []


def uniform(like: Tensor, width: int) -> Float[Tensor, "batch {width}"]:
    """Numbers from [0, 1) in `width` columns, with the rows and the device of `like`, whose values are unused.

    Under `torch.func.vmap` within `replica_streams`, each replica gets what `torch.manual_seed` with its own seed would
    have given it alone.
    """
    drawn: Tensor = torch.ops.memnets.uniform(like, width)
    return drawn


@contextmanager
def replica_streams(seeds: Sequence[int], device: torch.device) -> Iterator[None]:
    """Seed a stream per replica for as long as the context lasts."""
    _streams[:] = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    try:
        yield
    finally:
        _streams.clear()


@torch.library.custom_op("memnets::uniform", mutates_args=(), schema="(Tensor like, int width) -> Tensor")
def _uniform(like: Tensor, width: int) -> Tensor:
    return torch.rand(len(like), width, device=like.device)


@_uniform.register_fake
def _(like: Tensor, width: int) -> Tensor:
    return torch.empty(len(like), width, device=like.device)


@_uniform.register_vmap
def _(info: object, in_dims: tuple[int | None, None], like: Tensor, width: int) -> tuple[Tensor, int]:
    rows = like.movedim(in_dims[0] or 0, 0)
    if len(_streams) != len(rows):
        raise RuntimeError(f"{len(rows)} replicas draw from {len(_streams)} streams: use replica_streams")
    with torch._C._ExcludeDispatchKeyGuard(VMAP_MODE):  # in which torch refuses random numbers, even here
        drawn = [torch.rand(rows.shape[1], width, device=rows.device, generator=stream) for stream in _streams]
        return torch.stack(drawn), 0
