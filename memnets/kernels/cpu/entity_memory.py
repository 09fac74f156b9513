"""The C++ kernel of `entity_memory`: what torch is told about it, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUM_ARGUMENTS = 9
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def run(given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Return the memory `[batch slots word]` after the stories.

    Args:
        given: memory, sentences, lengths, matches `[batch sentences slots]`, the parts of candidates that sentences and
            keys make up, U and slopes.
    """
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return (torch.ops.memnets.entity_memory_forward(*given, keep)[0],)


def register() -> None:
    """Tell torch, once the kernel is loaded, what its results look like, and its gradient."""
    forward = "memnets::entity_memory_forward"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake("memnets::entity_memory_backward", _fake_backward)
    torch.library.register_autograd(forward, _gradient, setup_context=_save)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Four) -> None:
    _memory, *given, _keep = inputs
    ctx.save_for_backward(*given, *output[1:])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, d_memory: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if d_memory is None:
        return (None,) * NUM_ARGUMENTS
    if torch.is_grad_enabled():  # create_graph=True
        raise RuntimeError("entity_memory's C++ kernel has no second derivatives: use_backend('reference') has")
    memory, sentences, *others = torch.ops.memnets.entity_memory_backward(d_memory, *ctx.saved_tensors)
    return memory, sentences, None, *others, None


def _fake_forward(memory: Tensor, sentences: Tensor, *others: Any) -> Four:
    (batch, slots, word), steps = memory.shape, sentences.shape[1]
    kept = batch if others[-1] else 0
    return (
        torch.empty_like(memory, memory_format=torch.contiguous_format),
        memory.new_empty(kept, steps + 1, slots, word),
        memory.new_empty(kept, steps, slots, word),
        memory.new_empty(kept, steps, slots),
    )


def _fake_backward(d_memory: Tensor, sentences: Tensor, _lengths: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    weights = others[:-3]
    return tuple(given.new_empty(given.shape) for given in (d_memory, sentences, *weights))
