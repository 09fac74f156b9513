"""Product keys: the k best of either kind of half keys, then of their k² sums; and the weighted sum of values."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from memnets.kernels.triton.rows import sum_rows, sum_rows_backward
from memnets.kernels.triton.topk_address import best, nearest, nearest_backward


@torch.library.custom_op("memnets::product_key_address", mutates_args=())
def product_key_address(query: Tensor, half_keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See memnets.ops.product_key."""
    scores, places = nearest(_halves(query), half_keys.flatten(0, 1), None, k)
    first, second = rearrange(scores, "(h two) r k -> two r h k", two=2)
    i, j = rearrange(places, "(h two) r k -> two r h k", two=2)
    sums = first[..., :, None] + second[..., None, :]
    slots = i[..., :, None] * half_keys.shape[2] + j[..., None, :]
    scores, indices = best(sums.flatten(-2), slots.flatten(-2), k)
    return scores.to(query.dtype), indices


@product_key_address.register_fake
def _(query: Tensor, half_keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:2], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op("memnets::product_key_address_backward", mutates_args=())
def product_key_address_backward(
    d_scores: Tensor, query: Tensor, half_keys: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of query and half keys."""
    side = half_keys.shape[2]
    places = rearrange(torch.stack([indices // side, indices % side]), "two r h k -> (h two) r k")
    d_halves = rearrange(torch.stack([d_scores, d_scores]), "two r h k -> (h two) r k")
    d_query, d_keys = nearest_backward(d_halves, _halves(query), half_keys.flatten(0, 1), places)
    return rearrange(d_query, "(h two) r d -> r h (two d)", two=2), d_keys.view(half_keys.shape)


@product_key_address_backward.register_fake
def _(d_scores: Tensor, query: Tensor, half_keys: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), half_keys.new_empty(half_keys.shape)


@torch.library.custom_op("memnets::weighted_gather", mutates_args=())
def weighted_gather(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """See memnets.ops.product_key."""
    return sum_rows(values[None], *_rows(weights, indices)).view(*indices.shape[:2], values.shape[1])


@weighted_gather.register_fake
def _(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    (rows, heads, _), word = indices.shape, values.shape[1]
    return values.new_empty((rows, heads, word), dtype=torch.promote_types(values.dtype, weights.dtype))


@torch.library.custom_op("memnets::weighted_gather_backward", mutates_args=())
def weighted_gather_backward(
    d_vectors: Tensor, values: Tensor, weights: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of values and weights."""
    d_values, d_weights = sum_rows_backward(d_vectors.flatten(0, 1)[None], values[None], *_rows(weights, indices))
    return d_values[0], d_weights.view(weights.shape)


@weighted_gather_backward.register_fake
def _(d_vectors: Tensor, values: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), weights.new_empty(weights.shape)


def _halves(query: Tensor) -> Tensor:
    return rearrange(query, "r h (two d) -> (h two) r d", two=2)


def _rows(*choices: Tensor) -> list[Tensor]:
    """One group, a row for every head of every row."""
    return [rearrange(choice, "r h k -> 1 (r h) k") for choice in choices]


def _save_scored(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


def _address_gradient(ctx: Any, d_scores: Tensor, d_indices: Tensor | None) -> tuple[Tensor | None, ...]:
    return *torch.ops.memnets.product_key_address_backward(d_scores, *ctx.saved_tensors), None


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gather_gradient(ctx: Any, d_vectors: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.memnets.weighted_gather_backward(d_vectors, *ctx.saved_tensors), None


product_key_address.register_autograd(_address_gradient, setup_context=_save_scored)
weighted_gather.register_autograd(_gather_gradient, setup_context=_save)
