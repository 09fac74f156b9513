"""What torch is told about the C++ kernel of `ntm_sequence`: shapes of its results, its gradient, precisions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUM_TENSORS = 13
"""Inputs, lengths, six of the state, five of weights; then come the parts of addressing and whether to keep steps."""
MEMORY_INTERVAL = 6
"""A memory is kept for the backward pass every so many steps, as in ntm_heads.h."""
NUM_STATE = 5
"""The first results are features and state, which have gradients; the others are kept for the backward pass."""

Tensors = tuple[Tensor | None, ...]


def run(given: tuple[Any, ...], scheme: tuple[Any, ...]) -> Tensors:
    """Features at every step, and the state after the last: see memnets.ops.ntm_sequence.

    Args:
        given: inputs, lengths, the state's tensors and the weights': those there are in float32, or all in float64.
        scheme: similarity ("none" for none), strength, gate, shift width, sharpening.
    """
    *state, hidden, cell, weight, recurrent, bias, _upper, _upper_bias, interface, interface_bias = given
    hidden, cell = (part if part is None else part[:, 0] for part in (hidden, cell))
    given = (*state, hidden, cell, weight, recurrent, bias, interface, interface_bias)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    if keep and not torch.compiler.is_compiling():
        features, memory, read_weights, write_weights, cell = _Sequence.apply(scheme, *given)
    else:
        found = torch.ops.memnets.ntm_sequence_forward(*given, *scheme, keep)
        features, memory, read_weights, write_weights, cell = found[:NUM_STATE]
    _inputs, lengths, _memory, _reads, _writes, read_vectors, hidden, *_ = given
    read_vectors, last_hidden = _last(features, lengths, read_vectors, hidden)
    after = (last_hidden[:, None], cell[:, None]) if hidden is not None else (None, None)
    return features, memory, read_weights, write_weights, read_vectors, *after


def _last(
    features: Tensor, lengths: Tensor | None, read_vectors: Tensor, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Read vectors and controller output after the last step, as features hold them; without a step, the first."""
    num_reads = read_vectors[0].numel()
    if lengths is None:
        last_hidden, last_reads = features[:, -1].split([features.shape[2] - num_reads, num_reads], dim=-1)
        return last_reads.view_as(read_vectors), last_hidden
    last = features[torch.arange(len(lengths)), (lengths - 1).clamp_min(0)]
    last_hidden, last_reads = last.split([features.shape[2] - num_reads, num_reads], dim=-1)
    ran = (lengths > 0)[:, None]
    if hidden is not None:
        last_hidden = torch.where(ran, last_hidden, hidden)
    return torch.where(ran[..., None], last_reads.view_as(read_vectors), read_vectors), last_hidden


class _Sequence(torch.autograd.Function):
    """The op's gradient in eager mode: what `register_autograd` does, with fewer calls of Python."""

    @staticmethod
    def forward(ctx: Any, scheme: tuple[Any, ...], *given: Tensor | None) -> tuple[Tensor, ...]:
        arguments = (*given, *scheme, True)
        output = torch.ops.memnets.ntm_sequence_forward(*arguments)
        _save(ctx, arguments, output)
        return output[:NUM_STATE]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensors:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("ntm_sequence's C++ kernel has no second derivatives: use_backend('reference') has")
        return None, *_gradient(ctx, *gradients)[:NUM_TENSORS]


def register() -> None:
    """Tell torch what the op's results look like and what its gradient is."""
    forward, backward = "memnets::ntm_sequence_forward", "memnets::ntm_sequence_backward"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)
    torch.library.register_autograd(forward, _gradient, setup_context=_save)


def _fake_forward(
    inputs: Tensor, lengths: Tensor | None, memory: Tensor, read_weights: Tensor, write_weights: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    _read_vectors, _hidden, cell, _input, _recurrent, _bias, interface, _interface_bias, *scheme, keep = rest
    similarity, _strength, _gate, _shift, sharpening = scheme
    (batch, time, _), (_, slots, word) = inputs.shape, memory.shape
    steps, states, memories = (time, time + 1, time // MEMORY_INTERVAL + 1) if keep else (1, 2, 1)
    num_reads, hidden = read_weights.shape[1], interface.shape[1]
    heads = num_reads + write_weights.shape[1]
    cells = 0 if cell is None else hidden
    kept = (0 if similarity == "none" else 2) + int(sharpening)
    shapes = [
        (batch, time, hidden + num_reads * word),
        tuple(memory.shape),
        tuple(read_weights.shape),
        tuple(write_weights.shape),
        (batch, cells),
        (batch, steps, 4 * cells),
        (batch, states, cells),
        (batch, steps, interface.shape[0]),
        (batch, memories, word, slots),
        (batch, states, heads, slots),
        (batch, steps, heads, kept, slots),
        (batch, steps, slots if similarity == "cosine" else 0),
    ]
    return tuple(inputs.new_empty(shape) for shape in shapes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, lengths, _memory, read_weights, _write, read_vectors, hidden, _cell, *weights = inputs[:NUM_TENSORS]
    features, *_state = output[:NUM_STATE]
    ctx.save_for_backward(given, lengths, read_vectors, hidden, *weights, features, *output[NUM_STATE:])
    ctx.options = (read_weights.shape[1], *inputs[NUM_TENSORS:-1], given.requires_grad)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, *gradients: Tensor | None) -> Tensors:
    saved = ctx.saved_tensors  # once: under activation checkpointing, that computes them again
    _inputs, _lengths, _reads, _hidden, _input, recurrent, *_ = saved
    found = torch.ops.memnets.ntm_sequence_backward(*gradients[:NUM_STATE], *saved, *ctx.options)
    absent = set() if recurrent is not None else {5, 6, 8}  # hidden, cell and recurrent weights
    absent |= set() if ctx.options[-1] else {0}
    first, *others = (None if i in absent else gradient for i, gradient in enumerate(found))
    return (first, None, *others, *[None] * 6)


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, _, read_vectors, _, input_weight, recurrent, bias, interface, interface_bias = arguments[5:14]
    memories, weights, read_heads, wants_inputs = arguments[18], arguments[19], arguments[22], arguments[28]
    batch, _, word, slots = memories.shape
    gates, cells = input_weight.shape[0], 0 if recurrent is None else interface.shape[1]
    shapes = [
        inputs.shape if wants_inputs else (0, *inputs.shape[1:]),
        (batch, slots, word),
        (batch, read_heads, slots),
        (batch, weights.shape[2] - read_heads, slots),
        read_vectors.shape,
        (batch, cells),
        (batch, cells),
        input_weight.shape,
        (gates, cells),
        bias.shape,
        interface.shape,
        interface_bias.shape,
    ]
    return tuple(inputs.new_empty(shape) for shape in shapes)
