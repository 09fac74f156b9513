"""The whole recurrence of an NTM in one launch: each program runs a sequence, its memory on the chip from step to step.

What doesn't depend on the step before is matrix products outside: projected inputs, gradients of weights. Nothing is
summed by atomics: results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from memnets.kernels.triton.launch import ceil_power, launch
from memnets.kernels.triton.ntm_backward import backward
from memnets.kernels.triton.ntm_forward import forward
from memnets.kernels.triton.ntm_plan import Plan

Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def run(given: tuple[Any, ...], scheme: tuple[Any, ...]) -> Result:
    """Features at every step, and the state after the last: see memnets.ops.ntm_sequence.

    Args:
        given: inputs, lengths, the state's tensors and the weights': those there are in float32, or all in float64.
        scheme: similarity ("none" for none), strength, gate, shift width, sharpening.
    """
    inputs, lengths, memory, read_weights, write_weights, read_vectors, hidden, cell, *weights = given
    input_weight, recurrent_weight, bias, _upper, _upper_bias, interface_weight, interface_bias = weights
    hidden, cell = (part if part is None else part[:, 0] for part in (hidden, cell))
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    (input_size, hidden_size), num_reads = (inputs.shape[2], interface_weight.shape[1]), read_weights.shape[1]
    from_inputs, from_reads = input_weight.split([input_size, input_weight.shape[1] - input_size], dim=1)
    # A tanh layer doesn't see its own output.
    from_hidden = bias.new_zeros(len(bias), hidden_size) if recurrent_weight is None else recurrent_weight
    start = bias.new_zeros(len(inputs), hidden_size) if hidden is None else hidden
    with torch.autocast(inputs.device.type, enabled=False):
        projected = F.linear(inputs, from_inputs, bias)
    features, last, last_cell, memory, last_weights, _trace = ntm_sequence_triton(
        projected,
        torch.cat([start, read_vectors.flatten(1)], dim=1),
        bias.new_zeros(len(inputs), 0) if cell is None else cell,
        memory,
        torch.cat([read_weights, write_weights], dim=1),
        torch.cat([from_hidden, from_reads], dim=1),
        interface_weight,
        interface_bias,
        lengths,
        num_reads,
        *scheme,
        keep,
    )
    last_hidden, last_reads = last.split([hidden_size, last.shape[1] - hidden_size], dim=1)
    state = memory, *last_weights.split([num_reads, write_weights.shape[1]], dim=1), last_reads.view_as(read_vectors)
    if hidden is None:
        return features[:, 1:], *state, None, None
    return features[:, 1:], *state, last_hidden[:, None], last_cell[:, None]


def obstacle(memory: Tensor) -> str | None:
    """Return why a memory of this shape and dtype can't be served, None if it can: it must fit the chip."""
    slots, word = memory.shape[1:]
    size = ceil_power(slots) * max(ceil_power(word), 4) * (2 if memory.dtype == torch.float64 else 1)
    if size > LARGEST:
        return f"a memory of {slots} x {word} doesn't fit the chip: it takes the room of {size} numbers, {LARGEST} fit"
    return None


LARGEST = 8192
"""Numbers of a memory, both axes padded to powers of two (words to 4 at least), that leave registers for all else."""

RESOURCES = {"num_warps": 8, "max_registers": 255}
"""Of a program: all that a thread can have, as there are seldom more sequences than multiprocessors."""


def _ends(lengths: Tensor | None, steps: Tensor) -> Tensor:
    """How many of the steps every sequence runs."""
    if lengths is not None:
        return lengths.to(torch.int64).clamp(0, steps.shape[1])
    return torch.full((len(steps),), steps.shape[1], dtype=torch.int64, device=steps.device)


def _plan(start: Tensor, cell: Tensor, memory: Tensor, weights: Tensor, read_heads: int, *scheme: Any) -> Plan:
    """From the shapes of initial features, cell (empty without an LSTM), memory and weights."""
    (_, slots, word), heads = memory.shape, weights.shape[1]
    return Plan(
        slots, word, start.shape[1] - read_heads * word, read_heads, heads - read_heads, cell.shape[1] > 0, *scheme
    )


@torch.library.custom_op("memnets::ntm_sequence_triton", mutates_args=())
def ntm_sequence_triton(
    projected: Tensor,
    start: Tensor,
    cell: Tensor,
    memory: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    interface: Tensor,
    interface_bias: Tensor,
    lengths: Tensor | None,
    read_heads: int,
    similarity: str,
    strength: bool,
    gate: bool,
    shift_width: int,
    sharpening: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features from the initial ones on; last features, cell, memory and weights; the trace, whole if it is to be kept.

    `projected` [batch time gates] is what inputs and bias add to the gates, `recurrence` [gates features] what features
    add to the next step's; `start` [batch features] are the initial features; `cell` is empty without an LSTM.
    """
    plan = _plan(start, cell, memory, weights, read_heads, similarity, strength, gate, shift_width, sharpening)
    (batch, time, _), ends = projected.shape, _ends(lengths, projected)
    empty = memory.new_empty if lengths is None else memory.new_zeros  # steps that aren't run hold zeros
    features, trace = empty(batch, time + 1, plan.features), empty(batch, time + 1 if keep else 2, plan.trace)
    trace[:, -1] = 0  # no step begins there
    features[:, 0] = start
    trace[:, 0, : plan.weights_at] = memory.flatten(1)
    trace[:, 0, plan.weights_at : plan.ring_at] = weights.flatten(1)
    trace[:, 0, plan.cell_at : plan.gates_at] = cell
    given = [tensor.contiguous() for tensor in (projected, recurrence, interface, interface_bias)]
    launch(forward, (batch,), *given, ends, features, trace, time, trace.shape[1], P=plan, **RESOURCES)
    sequences = torch.arange(batch, device=ends.device)
    last = trace[sequences, ends % trace.shape[1]]
    return (
        features,
        features[sequences, ends],
        last[:, plan.cell_at : plan.gates_at].clone(),
        last[:, : plan.weights_at].clone().view(memory.shape),
        last[:, plan.weights_at : plan.ring_at].clone().view(weights.shape),
        trace,
    )


@ntm_sequence_triton.register_fake
def _(
    projected: Tensor, start: Tensor, cell: Tensor, memory: Tensor, weights: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *_, read_heads, similarity, strength, gate, shift_width, sharpening, keep = rest
    plan = _plan(start, cell, memory, weights, read_heads, similarity, strength, gate, shift_width, sharpening)
    batch, time, _ = projected.shape
    state = (memory.new_empty(tensor.shape) for tensor in (start, cell, memory, weights))
    features = memory.new_empty(batch, time + 1, plan.features)
    return features, *state, memory.new_empty(batch, time + 1 if keep else 2, plan.trace)


@torch.library.custom_op("memnets::ntm_sequence_triton_backward", mutates_args=())
def ntm_sequence_triton_backward(
    d_features: Tensor,
    d_last: Tensor,
    d_cell: Tensor,
    d_memory: Tensor,
    d_weights: Tensor,
    features: Tensor,
    trace: Tensor,
    recurrence: Tensor,
    interface: Tensor,
    lengths: Tensor | None,
    read_heads: int,
    similarity: str,
    strength: bool,
    gate: bool,
    shift_width: int,
    sharpening: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all floating arguments, from those of all results but the trace."""
    plan = _plan(d_last, d_cell, d_memory, d_weights, read_heads, similarity, strength, gate, shift_width, sharpening)
    batch, time, ends = len(features), features.shape[1] - 1, _ends(lengths, features[:, 1:])
    empty = trace.new_empty if lengths is None else trace.new_zeros  # steps that aren't run hold zeros
    d_sums = empty(batch, time, plan.gates + plan.interface)
    room = d_weights.new_empty(batch, 2 * d_weights[0].numel())
    gradients = torch.cat([d_memory.flatten(1), d_weights.flatten(1), room, d_cell, d_cell, d_last], dim=1)
    matrices = [matrix.t().contiguous() for matrix in (recurrence, interface)]
    given = (*matrices, ends, features, trace, d_features.contiguous())
    launch(backward, (batch,), *given, gradients, d_sums, time, P=plan, **RESOURCES)
    d_gates, d_emitted = d_sums.split([plan.gates, plan.interface], dim=2)
    seen, hidden = features[:, :-1].flatten(0, 1), features[:, 1:, : plan.hidden].flatten(0, 1)
    with torch.autocast(features.device.type, enabled=False):
        d_recurrence, d_interface = d_gates.flatten(0, 1).t() @ seen, d_emitted.flatten(0, 1).t() @ hidden
    return (
        d_gates.clone(memory_format=torch.contiguous_format),
        gradients[:, plan.d_features_at :].clone(),
        gradients[:, plan.d_cell_at : plan.d_cell_at + plan.cells].clone(),
        gradients[:, : plan.weights_at].clone().view(d_memory.shape),
        gradients[:, plan.weights_at : plan.d_used_at].clone().view(d_weights.shape),
        d_recurrence,
        d_interface,
        d_emitted.sum((0, 1)),
    )


@ntm_sequence_triton_backward.register_fake
def _(
    d_features: Tensor, d_last: Tensor, d_cell: Tensor, d_memory: Tensor, d_weights: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    _features, _trace, recurrence, interface, *_ = rest
    projected = (len(d_features), d_features.shape[1] - 1, len(recurrence))
    others = (d_last, d_cell, d_memory, d_weights, recurrence, interface, interface[:, 0])
    return tuple(d_features.new_empty(shape) for shape in (projected, *(other.shape for other in others)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, *_state, trace = output
    recurrence, interface, _bias, lengths, *options, _keep = inputs[5:]
    ctx.save_for_backward(features, trace, recurrence, interface, lengths)
    ctx.options, ctx.shapes = options, [each.shape for each in output[:-1]]
    ctx.set_materialize_grads(False)  # the trace's would be as large as the trace


def _gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: under activation checkpointing, that computes them again
    given = [
        saved[0].new_zeros(shape) if gradient is None else gradient
        for shape, gradient in zip(ctx.shapes, gradients[:-1], strict=True)
    ]
    return *torch.ops.memnets.ntm_sequence_triton_backward(*given, *saved, *ctx.options), *[None] * 8


ntm_sequence_triton.register_autograd(_gradient, setup_context=_save)
