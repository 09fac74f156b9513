"""The C++ kernels of `read_slots`: sums over slots, and what each is to the others' gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from memnets.kernels import build


def run(given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Return vectors `[batch heads time word]` for values, weights and indices."""
    return (torch.ops.memnets.sum_slots(*given),)


@cache
def load() -> None:
    """Make the ops known, for kernels whose gradients they are.

    Raises:
        BuildError: no compiler, or one that refuses the source.
    """
    build.load("read_slots")
    register()


@cache
def register() -> None:
    """Tell torch, once the kernel is loaded, what results look like, and gradients: these are ops of the same kind."""
    for name, fake, save, gradient in (
        ("memnets::sum_slots", _fake_sum, _save, _sum_gradient),
        ("memnets::dot_slots", _fake_dot, _save, _dot_gradient),
        ("memnets::scatter_slots", _fake_scatter, _save, _scatter_gradient),
    ):
        torch.library.register_fake(name, fake)
        torch.library.register_autograd(name, gradient, setup_context=save)


def _fake_sum(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    return values.new_empty((*indices.shape[:3], values.shape[3]))


def _fake_dot(values: Tensor, vectors: Tensor, indices: Tensor) -> Tensor:
    return values.new_empty(indices.shape)


def _fake_scatter(weights: Tensor, vectors: Tensor, indices: Tensor, key_heads: int, slots: int) -> Tensor:
    return vectors.new_empty((indices.shape[0], key_heads, slots, vectors.shape[3]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _sum_gradient(ctx: Any, d_vectors: Tensor) -> tuple[Tensor | None, ...]:
    values, weights, indices = ctx.saved_tensors
    return _of_values(ctx, values, weights, d_vectors, indices), _dot(ctx, 1, values, d_vectors, indices), None


def _dot_gradient(ctx: Any, d_weights: Tensor) -> tuple[Tensor | None, ...]:
    values, vectors, indices = ctx.saved_tensors
    return _of_values(ctx, values, d_weights, vectors, indices), _sum(ctx, values, d_weights, indices), None


def _scatter_gradient(ctx: Any, d_values: Tensor) -> tuple[Tensor | None, ...]:
    weights, vectors, indices = ctx.saved_tensors
    d_weights = _dot(ctx, 0, d_values, vectors, indices)
    return d_weights, _sum(ctx, d_values, weights, indices), None, None, None


def _of_values(ctx: Any, values: Tensor, weights: Tensor, vectors: Tensor, indices: Tensor) -> Tensor | None:
    wanted = ctx.needs_input_grad[0]
    return torch.ops.memnets.scatter_slots(weights, vectors, indices, *values.shape[1:3]) if wanted else None


def _dot(ctx: Any, place: int, values: Tensor, vectors: Tensor, indices: Tensor) -> Tensor | None:
    return torch.ops.memnets.dot_slots(values, vectors, indices) if ctx.needs_input_grad[place] else None


def _sum(ctx: Any, values: Tensor, weights: Tensor, indices: Tensor) -> Tensor | None:
    return torch.ops.memnets.sum_slots(values, weights, indices) if ctx.needs_input_grad[1] else None
