"""Reading and writing k slots per head, not all (sparse access memory: Rae et al. 2016, arXiv:1610.09027).

A head's weight for a slot is the sum of those that name it, w_h(i) = Σ_j weights_h(j) [indices_h(j) = i], and 0 where
none does: a slot may be named twice by one head, and by several. Indices lie between 0 and slots - 1.
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops import backend
from memnets.ops.erase_add import read_and_write_reference


def sparse_read(
    memory: Float[Tensor, "batch slots word"],
    weights: Float[Tensor, "batch heads k"],
    indices: Int[Tensor, "batch heads k"],
) -> Float[Tensor, "batch heads word"]:
    """r_h = Σ_j weights_h(j) M(indices_h(j)) (section 3.1). Gradients reach the chosen slots only.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    obstacles = {"triton": lambda: backend.triton_obstacle(indices, memory, weights, mixed=True)}
    if backend.choose("sparse_read", obstacles) == "triton":
        from memnets.kernels.triton import sparse_access as kernel

        return kernel.sparse_read(memory, weights, indices)
    return sparse_read_reference(memory, weights, indices)


def sparse_read_reference(memory: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    flat = rearrange(indices, "b h k -> b (h k) 1").expand(-1, -1, memory.shape[2])
    rows = rearrange(memory.gather(1, flat), "b (h k) w -> b h k w", h=indices.shape[1])
    return (weights[..., None] * rows).sum(-2)


def sparse_write(
    memory: Float[Tensor, "batch slots word"],
    weights: Float[Tensor, "batch heads k"],
    indices: Int[Tensor, "batch heads k"],
    erase: Float[Tensor, "batch heads word"],
    add: Float[Tensor, "batch heads word"],
) -> Float[Tensor, "batch slots word"]:
    """M'(i) = M(i) · Π_h (1 - w_h(i) erase_h) + Σ_h w_h(i) add_h: `erase_add` with weights 0 where no head writes.

    Slots that no head names are copied as they are.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    given = (memory, weights, indices, erase, add)
    obstacles = {"triton": lambda: backend.triton_obstacle(indices, memory, weights, erase, add)}
    if backend.choose("sparse_write", obstacles) == "triton":
        from memnets.kernels.triton import sparse_access as kernel

        return kernel.sparse_write(*given)
    return sparse_write_reference(*given)


def sparse_write_reference(memory: Tensor, weights: Tensor, indices: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The same in plain PyTorch, with weights over all slots."""
    nothing = weights.new_zeros((*weights.shape[:2], memory.shape[1]))
    dense = nothing.scatter_add(-1, indices, weights)
    return read_and_write_reference(memory, dense[:, :0], dense, erase, add)[1]
