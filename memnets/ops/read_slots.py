"""Reading the slots that each query found: their rows, or the weighted sum of these."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu import read_slots as cpu
from memnets.ops import backend
from memnets.ops.sequence import in_one_precision, place_obstacle


def read_slots(
    values: Float[Tensor, "batch key_heads slots word"],
    weights: Float[Tensor, "batch heads time k"],
    indices: Int[Tensor, "batch heads time k"],
) -> Float[Tensor, "batch heads time word"]:
    """Σ_j weights_j values(indices_j), for each head and query; head i reads key head i // (heads / key_heads).

    A slot may be named any number of times. The kernel holds no [batch heads time k word] in between, and computes a
    gradient only of what wants one: values that want none cost no room.

    Raises:
        ValueError: heads are no multiple of key heads.
        IndexError: (kernel) an index is no slot.
        BackendError: the backend asked for by name can't serve the call.
    """
    _check_heads(weights.shape[1], values.shape[1])
    given = (values, weights, indices)
    if backend.choose("read_slots", {"cpu": lambda: _cpu_obstacle(given)}) == "cpu":
        return in_one_precision(cpu.run, given)[0]
    return read_slots_reference(*given)


def _cpu_obstacle(given: tuple[Tensor, ...]) -> str | None:
    """Return why the C++ kernel can't serve these tensors, None if it can."""
    if reason := place_obstacle(given) or backend.transform_obstacle():
        return reason
    return backend.build_obstacle("read_slots", cpu.register)


def read_slots_reference(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    return torch.einsum("bhtk,bhtkw->bhtw", weights, gather_slots(values, indices))


def gather_slots(
    values: Float[Tensor, "batch key_heads slots word"], indices: Int[Tensor, "batch heads time k"]
) -> Float[Tensor, "batch heads time k word"]:
    """Rows of `values` at `indices`; head i takes those of key head i // (heads / key_heads).

    Raises:
        ValueError: heads are no multiple of key heads.
    """
    _check_heads(indices.shape[1], values.shape[1])
    flat = rearrange(indices, "b (g share) t k -> b g (share t k)", g=values.shape[1])
    rows = values.gather(2, repeat(flat, "b g n -> b g n w", w=values.shape[-1]))
    _, heads, time, k = indices.shape
    return rearrange(rows, "b g (share t k) w -> b (g share) t k w", share=heads // values.shape[1], t=time, k=k)


def _check_heads(heads: int, key_heads: int) -> None:
    """Refuse query heads that can't share key heads alike.

    Raises:
        ValueError: heads are no multiple of key heads.
    """
    if heads % key_heads:
        raise ValueError(f"query heads must be a multiple of key heads, not {heads} of {key_heads}")
