"""The C++ kernel of `memory_hops`: what torch is told about it, its gradient and its rule for vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memnets.kernels.replicas import Given, in_front

Three = tuple[Tensor, Tensor, Tensor]
NUM_TENSORS = 7
"""Story, ages, question, words, vectors of ages, update, linear: with an axis of replicas first. The scheme follows."""
WEIGHTS = (3, 4, 5)
"""Those of them that have gradients."""


def run(given: Given, scheme: tuple[Any, ...]) -> Tensor:
    """Return the last query `[replicas batch embedding]`.

    Args:
        given: the op's tensors, with an axis of replicas.
        scheme: what follows them, all but keep.
    """
    keep = _learns(given)
    if keep and not torch.compiler.is_compiling():
        found: Three = _MemoryHops.apply(scheme, *given)
    else:
        found = torch.ops.memnets.memory_hops_forward(*given, *scheme, keep)
    return found[0]


def _learns(given: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)


def register() -> None:
    """Tell torch, once the kernel is loaded, what its results look like, its gradient, and what replicas are."""
    forward = "memnets::memory_hops_forward"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake("memnets::memory_hops_backward", _fake_backward)
    torch.library.register_autograd(forward, _gradient, setup_context=_save)
    torch.library.register_vmap(forward, _over_replicas)


def _over_replicas(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Three, tuple[int, int, int]]:
    """The axis that vmap goes over becomes one of replicas, beside the one there is."""
    size, tensors = info.batch_size, zip(arguments[:NUM_TENSORS], in_dims[:NUM_TENSORS], strict=True)
    given = [None if tensor is None else in_front(tensor, dim, size, True) for tensor, dim in tensors]
    keep = arguments[-1] or _learns(given)  # outside of vmap, where tensors tell whether they require a gradient
    found = torch.ops.memnets.memory_hops_forward(*given, *arguments[NUM_TENSORS:-1], keep)
    query, queries, weights = (tensor.unflatten(0, (size, -1)) for tensor in found)
    return (query, queries, weights), (0, 0, 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    given = inputs[:NUM_TENSORS]
    ctx.save_for_backward(*given, *output[1:])
    wanted = (given[i] is not None and given[i].requires_grad for i in WEIGHTS)
    ctx.options = (*inputs[NUM_TENSORS:-1], *wanted)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, d_query: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of the forward op's arguments."""
    gradients: list[Tensor | None] = [None] * (NUM_TENSORS + len(ctx.options) - len(WEIGHTS) + 1)
    if d_query is not None:
        found = torch.ops.memnets.memory_hops_backward(d_query, *ctx.saved_tensors, *ctx.options)
        for i, wanted, gradient in zip(WEIGHTS, ctx.options[-3:], found, strict=True):
            gradients[i] = gradient if wanted else None
    return tuple(gradients)


def _fake_forward(*arguments: Any) -> Three:
    story, _ages, _question, words = arguments[:4]
    hops, keep = arguments[NUM_TENSORS], arguments[-1]
    (replicas, batch, sentences, _), embedding = story.shape, words.shape[3]
    kept = batch if keep else 0
    return (
        words.new_empty(replicas, batch, embedding),
        words.new_empty(replicas, kept, hops + 1, embedding),
        words.new_empty(replicas, kept, hops, sentences),
    )


def _fake_backward(*arguments: Any) -> Three:
    words, wanted = arguments[4], arguments[-3:]
    one, two, three = (
        words.new_empty(weight.shape if want else (0,)) for weight, want in zip(arguments[4:7], wanted, strict=True)
    )
    return one, two, three


class _MemoryHops(torch.autograd.Function):
    """The op's gradient in eager mode: what `register_autograd` does, with fewer calls of Python."""

    @staticmethod
    def forward(ctx: Any, scheme: tuple[Any, ...], *given: Tensor | None) -> Three:
        arguments = (*given, *scheme, True)
        # As torch/_library/autograd.py does it: past the dispatch that would look for the op's gradient again.
        with torch._C._AutoDispatchBelowAutograd():
            output: Three = torch.ops.memnets.memory_hops_forward(*arguments)
        _save(ctx, arguments, output)
        ctx.mark_non_differentiable(*output[1:])
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("memory_hops's C++ kernel has no second derivatives: use_backend('reference') has")
        return None, *_gradient(ctx, *gradients)[:NUM_TENSORS]
