"""The C++ kernels of product keys: what torch is told about them and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def address(query: Tensor, half_keys: Tensor, k: int) -> Pair:
    """Return scores and slots; see memnets.ops.product_key."""
    if _learns(query, half_keys):
        found: Pair = _Address.apply(query, half_keys, k)
        return found
    scores, indices = torch.ops.memnets.product_key_address_cpu(query, half_keys, k)
    return scores, indices


def gather(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """Return weighted sums of rows; see memnets.ops.product_key."""
    if _learns(values, weights):
        vectors: Tensor = _Gather.apply(values, weights, indices)
        return vectors
    vectors = torch.ops.memnets.weighted_gather_cpu(values, weights, indices)
    return vectors


def _learns(*given: Tensor) -> bool:
    """Whether the op's gradient is wanted in eager mode: there it costs fewer calls of Python as a Function."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return wanted and not torch.compiler.is_compiling()


def register() -> None:
    """Tell torch, once the kernels are loaded, what their results look like and what their gradients are."""
    address, gather = "memnets::product_key_address_cpu", "memnets::weighted_gather_cpu"
    torch.library.register_fake(address, _fake_address)
    torch.library.register_fake(f"{address}_backward", _fake_address_backward)
    torch.library.register_fake(gather, _fake_gather)
    torch.library.register_fake(f"{gather}_backward", _fake_gather_backward)
    torch.library.register_autograd(address, _address_gradient, setup_context=_save_address)
    torch.library.register_autograd(gather, _gather_gradient, setup_context=_save_gather)


def _save_address(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.mark_non_differentiable(output[1])


def _address_gradient(ctx: Any, d_scores: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *torch.ops.memnets.product_key_address_cpu_backward(d_scores, *ctx.saved_tensors), None


def _save_gather(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.wanted = inputs[0].requires_grad, inputs[1].requires_grad


def _gather_gradient(ctx: Any, d_vectors: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.memnets.weighted_gather_cpu_backward(d_vectors, *ctx.saved_tensors, *ctx.wanted)
    return *(gradient if want else None for gradient, want in zip(found, ctx.wanted, strict=True)), None


def _fake_address(query: Tensor, half_keys: Tensor, k: int) -> Pair:
    shape = (*query.shape[:2], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)


def _fake_address_backward(d_scores: Tensor, query: Tensor, half_keys: Tensor, indices: Tensor) -> Pair:
    return query.new_empty(query.shape), half_keys.new_empty(half_keys.shape)


def _fake_gather(values: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    return values.new_empty((*indices.shape[:2], values.shape[1]))


def _fake_gather_backward(d_vectors: Tensor, values: Tensor, weights: Tensor, indices: Tensor, *wanted: bool) -> Pair:
    one, two = (t.new_empty(t.shape if want else (0,)) for t, want in zip((values, weights), wanted, strict=True))
    return one, two


class _Once(torch.autograd.Function):
    """The op's gradient in eager mode: what `register_autograd` does, with fewer calls of Python."""

    @staticmethod
    def check() -> None:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("product keys' C++ kernels have no second derivatives: use_backend('reference') has")


class _Address(_Once):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Pair:
        # As torch/_library/autograd.py does it: past the dispatch that would look for the op's gradient again.
        with torch._C._AutoDispatchBelowAutograd():
            output: Pair = torch.ops.memnets.product_key_address_cpu(*given)
        _save_address(ctx, given, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _Once.check()
        return _address_gradient(ctx, gradients[0], None)


class _Gather(_Once):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output: Tensor = torch.ops.memnets.weighted_gather_cpu(*given)
        _save_gather(ctx, given, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _Once.check()
        return _gather_gradient(ctx, *gradients)
