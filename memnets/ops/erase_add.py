"""Reading from and writing to a memory (NTM paper, equations 2 to 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.ops import backend


def read(
    memory: Float[Tensor, "batch slots word"], weights: Float[Tensor, "batch heads slots"]
) -> Float[Tensor, "batch heads word"]:
    """r = Σ_i w(i) M(i) (equation 2)."""
    return torch.einsum("bhn,bnw->bhw", weights, memory)


def erase_add(
    memory: Float[Tensor, "batch slots word"],
    weights: Float[Tensor, "batch heads slots"],
    erase: Float[Tensor, "batch heads word"],
    add: Float[Tensor, "batch heads word"],
) -> Float[Tensor, "batch slots word"]:
    """M'(i) = M(i) · Π_h (1 - w_h(i) erase_h) + Σ_h w_h(i) add_h (equations 3 and 4): all erase, then all add."""
    return read_and_write(memory, weights[:, :0], weights, erase, add)[1]


def read_and_write(
    memory: Float[Tensor, "batch slots word"],
    read_weights: Float[Tensor, "batch read_heads slots"],
    write_weights: Float[Tensor, "batch write_heads slots"],
    erase: Float[Tensor, "batch write_heads word"],
    add: Float[Tensor, "batch write_heads word"],
) -> tuple[Float[Tensor, "batch read_heads word"], Float[Tensor, "batch slots word"]]:
    """What the read heads find in the memory, and the memory after the write heads: one pass over it in a kernel.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    given = (memory, read_weights, write_weights, erase, add)
    if backend.choose("read_and_write", {"triton": lambda: backend.triton_obstacle(*given)}) == "triton":
        from memnets.kernels.triton import erase_add as kernel

        return kernel.read_and_write(*given)
    return read_and_write_reference(*given)


def read_and_write_reference(
    memory: Tensor, read_weights: Tensor, write_weights: Tensor, erase: Tensor, add: Tensor
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    keep = 1 - write_weights[:, :, :, None] * erase[:, :, None, :]
    return read(memory, read_weights), memory * keep.prod(dim=1) + torch.einsum("bhn,bhw->bnw", write_weights, add)
