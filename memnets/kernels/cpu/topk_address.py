"""The C++ kernel of `topk_address`: what torch is told about it, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memnets.kernels.cpu import read_slots

Two = tuple[Tensor, Tensor]


def run(given: tuple[Tensor | None, ...], k: int) -> Two:
    """Return scores and slots `[batch heads time k]` for query, keys, stamps, oldest, newest and decay."""
    found: Two = torch.ops.memnets.search_slots(*given, k)
    return found


def register() -> None:
    """Tell torch, once the kernel is loaded, what its results look like, and its gradient: sums over slots.

    Raises:
        BuildError: those can't be built.
    """
    read_slots.load()
    torch.library.register_fake("memnets::search_slots", _fake)
    torch.library.register_autograd("memnets::search_slots", _gradient, setup_context=_save)


def _fake(
    query: Tensor,
    keys: Tensor,
    stamps: Tensor,
    oldest: Tensor,
    newest: Tensor,
    decay: Tensor | None,
    k: int,
    plain: bool = False,
) -> Two:
    shape = (*query.shape[:3], k)
    return query.new_empty(shape), stamps.new_empty(shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Two) -> None:
    ctx.save_for_backward(*inputs[:3], inputs[4], *output)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, d_scores: Tensor | None, d_indices: Tensor | None) -> tuple[Tensor | None, ...]:
    d_query = d_keys = d_decay = None
    if d_scores is not None:
        query, keys, stamps, newest, scores, indices = ctx.saved_tensors
        d_scores = d_scores.masked_fill(scores == -torch.inf, 0)
        if ctx.needs_input_grad[0]:
            d_query = torch.ops.memnets.sum_slots(keys, d_scores, indices)
        if ctx.needs_input_grad[1]:
            d_keys = torch.ops.memnets.scatter_slots(d_scores, query, indices, *keys.shape[1:3])
        if ctx.needs_input_grad[5]:
            found = stamps[:, None, None].expand(*indices.shape[:3], -1).gather(-1, indices)
            d_decay = -(d_scores * (newest[:, None, :, None] - found)).sum((0, 2, 3))
    return d_query, d_keys, None, None, None, d_decay, *[None] * (len(ctx.needs_input_grad) - 6)
