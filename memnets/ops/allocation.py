"""Which slots a DNC may write to: usage and allocation (Graves et al. 2016, Methods, dynamic memory allocation)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def usage_after(
    usage: Float[Tensor, "batch slots"],
    previous_write_weights: Float[Tensor, "batch slots"],
    previous_read_weights: Float[Tensor, "batch heads slots"],
    free_gates: Float[Tensor, "batch heads"],
) -> tuple[Float[Tensor, "batch slots"], Float[Tensor, "batch slots"]]:
    """How much each slot is in use, and its retention: how much of it the read heads do not free.

    retention(i) = Π_h (1 - free_h · read_h(i)), usage'(i) = (usage(i) + write(i) - usage(i) · write(i)) · retention(i).
    """
    retention = (1 - free_gates[:, :, None] * previous_read_weights).prod(dim=1)
    return (usage + (1 - usage) * previous_write_weights) * retention, retention


def allocation_weights(usage: Float[Tensor, "batch slots"]) -> Float[Tensor, "batch slots"]:
    """Weights of a write to the least used slots; together at most 1.

    With slots φ(1), φ(2), ... in the order of their usage, of equal ones the lower first:
    a(φ(j)) = (1 - usage(φ(j))) Π_{i<j} usage(φ(i)). The gradient takes the order as given. It is computed in float32
    at least, as products of as many factors as there are slots drift in bfloat16.
    """
    ascending, order = torch.sort(usage.to(torch.promote_types(usage.dtype, torch.float32)), dim=-1, stable=True)
    passed_on = torch.cat([torch.ones_like(ascending[:, :1]), ascending[:, :-1]], dim=-1).cumprod(dim=-1)
    allocated = (1 - ascending) * passed_on
    return torch.zeros_like(allocated).scatter(-1, order, allocated).to(usage.dtype)
