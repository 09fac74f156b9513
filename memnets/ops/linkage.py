"""In which order a DNC's slots were written: temporal links (Graves et al. 2016, Methods, temporal memory linkage)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def link_after(
    link: Float[Tensor, "batch slots slots"],
    precedence_weights: Float[Tensor, "batch slots"],
    write_weights: Float[Tensor, "batch slots"],
) -> Float[Tensor, "batch slots slots"]:
    """How much slot i was written right after slot j; 0 for i = j.

    L'(i, j) = (1 - write(i) - write(j)) L(i, j) + write(i) · precedence(j), precedence being that before the write.
    """
    after, before = write_weights[:, :, None], write_weights[:, None, :]
    # Of slots x slots numbers, the backward pass keeps the old links alone: no factor of theirs, no mask.
    linked = link - after * link - before * link + after * precedence_weights[:, None, :]
    return linked.diagonal_scatter(torch.zeros_like(write_weights), dim1=1, dim2=2)


def precedence_after(
    precedence_weights: Float[Tensor, "batch slots"], write_weights: Float[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots"]:
    """How much each slot was the last one written: (1 - Σ_j write(j)) · precedence(i) + write(i)."""
    return (1 - write_weights.sum(dim=-1, keepdim=True)) * precedence_weights + write_weights


LINK_EPSILON = 1e-6
"""The epsilon to `sharpen` what links say with.

Unlike other weights these can all be near 0: a gradient then grows by sharpening / epsilon at every step, and overflows
within a few steps at 1e-16.
"""


def follow_link(
    link: Float[Tensor, "batch slots slots"], read_weights: Float[Tensor, "batch heads slots"]
) -> tuple[Float[Tensor, "batch heads slots"], Float[Tensor, "batch heads slots"]]:
    """Forward weights Σ_j L(i, j) read(j), what was written next; backward Σ_j L(j, i) read(j), what before."""
    return torch.einsum("bij,bhj->bhi", link, read_weights), torch.einsum("bji,bhj->bhi", link, read_weights)
