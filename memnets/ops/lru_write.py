"""Writing to what was read last and to what was unused for longest (Rae et al. 2016, arXiv:1610.09027, section 3.2)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


def lru_write(
    memory: Float[Tensor, "batch slots word"],
    last_access: Int[Tensor, "batch slots"],
    read_weights: Float[Tensor, "batch heads k"],
    read_slots: Int[Tensor, "batch heads k"],
    interpolation_gate: Float[Tensor, "batch heads"],
    write_gate: Float[Tensor, "batch heads"],
    add: Float[Tensor, "batch heads word"],
) -> tuple[Float[Tensor, "batch slots word"], Float[Tensor, "batch heads places"], Int[Tensor, "batch heads places"]]:
    """The memory after the write, and weights and indices of the k + 1 slots each head wrote to.

    w_h = write_gate_h · (interpolation_gate_h · r_h + (1 - interpolation_gate_h) · e_h), r_h being what the head read a
    step ago and e_h one slot: the least recently used one for head 0, the next for head 1 and on, of equal ones the
    lower first. Then M' = (1 - R) M + Σ_h w_h add_h, where R is 1 in the rows of the e_h: these alone are erased,
    before the write. The choice of slots has no gradient.

    Raises:
        ValueError: fewer slots than heads.
    """
    heads, slots = read_slots.shape[1], memory.shape[1]
    if heads > slots:
        raise ValueError(f"every head writes to a slot of its own: {heads} heads need as many slots, not {slots}")
    oldest = torch.sort(last_access, dim=-1, stable=True).indices[:, :heads]
    written = torch.cat([read_slots, oldest[:, :, None]], dim=-1)
    gates = interpolation_gate[..., None]
    weights = write_gate[..., None] * torch.cat([gates * read_weights, 1 - gates], dim=-1)
    added = rearrange(weights[..., None] * add[:, :, None], "b h p w -> b (h p) w")
    cleared = memory.scatter(1, _rows(oldest, memory), 0.0)
    return cleared.scatter_add(1, _rows(written.flatten(1), memory), added.to(memory.dtype)), weights, written


def _rows(indices: Tensor, memory: Tensor) -> Tensor:
    return indices[:, :, None].expand(-1, -1, memory.shape[2])
