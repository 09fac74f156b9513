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
from memnets.kernels.triton.ntm_heads import Plan

Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def run(
    inputs: Tensor,
    memory: Tensor,
    read_weights: Tensor,
    write_weights: Tensor,
    read_vectors: Tensor,
    hidden: Tensor | None,
    cell: Tensor | None,
    input_weight: Tensor,
    recurrent_weight: Tensor | None,
    bias: Tensor,
    interface_weight: Tensor,
    interface_bias: Tensor,
    lengths: Tensor | None,
    similarity: str,
    strength: bool,
    gate: bool,
    shift_width: int,
    sharpening: bool,
) -> Result:
    """Features at every step, and the state after the last: see memnets.ops.ntm_sequence.

    A sequence with a length runs that many steps: features are 0 after them, and the state stays. All tensors are
    float32 or all float64; without recurrent weights the controller is one tanh layer, and `hidden` and `cell` are None.
    """
    (input_size, hidden_size), num_reads = (inputs.shape[2], interface_weight.shape[1]), read_weights.shape[1]
    given = (inputs, memory, read_weights, write_weights, read_vectors, hidden, cell, input_weight, recurrent_weight)
    weights = (bias, interface_weight, interface_bias)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*given, *weights))
    from_inputs, from_reads = input_weight.split([input_size, input_weight.shape[1] - input_size], dim=1)
    # A tanh layer doesn't see its own output.
    from_hidden = bias.new_zeros(len(bias), hidden_size) if recurrent_weight is None else recurrent_weight
    start = bias.new_zeros(len(inputs), hidden_size) if hidden is None else hidden
    features, last, last_cell, memory, last_weights, *_kept = ntm_sequence_triton(
        F.linear(inputs, from_inputs, bias),
        torch.cat([start, read_vectors.flatten(1)], dim=1),
        bias.new_zeros(len(inputs), 0) if cell is None else cell,
        memory,
        torch.cat([read_weights, write_weights], dim=1),
        torch.cat([from_hidden, from_reads], dim=1),
        interface_weight,
        interface_bias,
        lengths,
        num_reads,
        similarity,
        strength,
        gate,
        shift_width,
        sharpening,
        keep,
    )
    last_hidden, last_reads = last.split([hidden_size, last.shape[1] - hidden_size], dim=1)
    state = memory, *last_weights.split([num_reads, write_weights.shape[1]], dim=1), last_reads.view_as(read_vectors)
    if hidden is None:
        return features[:, 1:], *state, None, None
    return features[:, 1:], *state, last_hidden, last_cell


def obstacle(memory: Tensor) -> str | None:
    """Return why a memory of this shape and dtype can't be served, None if it can: it must fit the chip."""
    slots, word = memory.shape[1:]
    size = ceil_power(slots) * ceil_power(word) * (2 if memory.dtype == torch.float64 else 1)
    if size > LARGEST:
        return f"a memory of {slots} x {word} numbers doesn't fit the chip: {size} with padding, {LARGEST} at most"
    return None


LARGEST = 8192
"""Numbers of a memory, both axes padded to powers of two, with which no target spills registers."""


def _warps(plan: Plan) -> int:
    """Enough that a memory's tile takes 16 registers of every thread."""
    return max(4, min(16, plan.slots_tile * plan.word_tile // 512))


def _ends(lengths: Tensor | None, like: Tensor, time: int) -> Tensor:
    """How many steps every sequence runs."""
    whole = torch.full((len(like),), time, dtype=torch.int64, device=like.device)
    return whole if lengths is None else lengths.to(torch.int64)


def _at(states: Tensor, ends: Tensor) -> Tensor:
    """Every sequence's state after its last step, from `[batch time+1 ..]`."""
    return states[torch.arange(len(ends), device=ends.device), ends]


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features from the initial ones on, the last of them, last cell, memory and weights; the rest is kept if asked for.

    `projected` [batch time gates] is what inputs and bias add to the gates, `start` [batch features] the first features,
    `recurrence` [gates features] what features add to the next step's gates. `cell` is empty without an LSTM.
    """
    scheme = (similarity, strength, gate, shift_width, sharpening)
    plan = _plan(start, cell, memory, weights, read_heads, scheme, keep)
    time, ends = projected.shape[1], _ends(lengths, start, projected.shape[1])
    # Steps that aren't run hold zeros.
    empty = memory.new_empty if lengths is None else memory.new_zeros
    features, gates, cells, emitted, interpolated, trace, memories = (
        empty(shape) for shape in _shapes(plan, len(start), time)
    )
    features[:, 0], cells[:, 0], trace[:, 0] = start, cell, weights
    after = memory.clone(memory_format=torch.contiguous_format)
    parameters = [tensor.contiguous() for tensor in (projected, recurrence, interface, interface_bias, ends)]
    saved = (features, gates, cells, emitted, interpolated, trace, memories)
    launch(forward, (len(start),), *parameters, *saved, after, time, num_warps=_warps(plan), P=plan)
    last, last_cell, last_weights = (_at(states, ends) for states in (features, cells, trace))
    return features, last, last_cell, after, last_weights, *saved[1:]


def _plan(
    start: Tensor,
    cell: Tensor,
    memory: Tensor,
    weights: Tensor,
    read_heads: int,
    scheme: tuple[str, bool, bool, int, bool],
    keep: bool = True,
) -> Plan:
    (_, slots, word), heads = memory.shape, weights.shape[1]
    hidden = start.shape[1] - read_heads * word
    return Plan(slots, word, hidden, read_heads, heads - read_heads, cell.shape[1] > 0, *scheme, keep)


def _shapes(plan: Plan, batch: int, time: int) -> list[tuple[int, ...]]:
    """Of features, gates, cells, emitted, interpolated weights, weights, memories before each step."""
    steps, cells = (time if plan.keep else 1), (plan.hidden if plan.lstm else 0)
    return [
        (batch, time + 1, plan.features),
        (batch, steps, 4 * cells),
        (batch, time + 1, cells),
        (batch, steps, plan.interface),
        (batch, steps, plan.heads, plan.slots),
        (batch, time + 1, plan.heads, plan.slots),
        (batch, time if plan.keep else 0, plan.slots, plan.word),
    ]


@ntm_sequence_triton.register_fake
def _(projected: Tensor, start: Tensor, cell: Tensor, memory: Tensor, weights: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    read_heads, *scheme, keep = rest[-7:]
    plan = _plan(start, cell, memory, weights, read_heads, tuple(scheme), keep)
    features, *kept = (memory.new_empty(shape) for shape in _shapes(plan, len(start), projected.shape[1]))
    state = (memory.new_empty(tensor.shape) for tensor in (start, cell, memory, weights))
    return features, *state, *kept


@torch.library.custom_op("memnets::ntm_sequence_triton_backward", mutates_args=())
def ntm_sequence_triton_backward(
    d_features: Tensor,
    d_last: Tensor,
    d_cell: Tensor,
    d_memory: Tensor,
    d_weights: Tensor,
    features: Tensor,
    gates: Tensor,
    cells: Tensor,
    emitted: Tensor,
    interpolated: Tensor,
    trace: Tensor,
    memories: Tensor,
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
    """Gradients of all floating arguments, from those of the first five results."""
    scheme = (similarity, strength, gate, shift_width, sharpening)
    plan = _plan(d_last, d_cell, d_memory, d_weights, read_heads, scheme)
    (batch, time), ends = memories.shape[:2], _ends(lengths, d_last, memories.shape[1])
    # Steps that aren't run hold zeros.
    empty = d_last.new_empty if lengths is None else d_last.new_zeros
    d_sums, d_emitted = empty(batch, time, plan.gates), empty(batch, time, plan.interface)
    d_memory, d_weights, d_start = (
        tensor.clone(memory_format=torch.contiguous_format) for tensor in (d_memory, d_weights, d_last)
    )
    d_cells = torch.stack([d_cell, d_cell], dim=1)
    carried = (d_memory, d_weights, torch.empty_like(d_weights), torch.empty_like(d_weights), d_start, d_cells)
    parameters = recurrence.t().contiguous(), interface.t().contiguous(), ends
    saved = features, gates, cells, emitted, interpolated, trace, memories, d_features.contiguous()
    launch(backward, (batch,), *parameters, *saved, *carried, d_sums, d_emitted, time, num_warps=_warps(plan), P=plan)
    seen, made = features[:, :-1].flatten(0, 1), features[:, 1:, : plan.hidden].flatten(0, 1)
    d_recurrence, d_interface = d_sums.flatten(0, 1).t() @ seen, d_emitted.flatten(0, 1).t() @ made
    return d_sums, d_start, d_cells[:, 0].clone(), d_memory, d_weights, d_recurrence, d_interface, d_emitted.sum((0, 1))


@ntm_sequence_triton_backward.register_fake
def _(d_features: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    state, recurrence, interface = rest[:4], rest[11], rest[12]
    projected = (len(d_features), d_features.shape[1] - 1, len(recurrence))
    shapes = [projected, *(each.shape for each in (*state, recurrence, interface)), interface.shape[:1]]
    return tuple(d_features.new_empty(shape) for shape in shapes)


NUM_RESULTS = 5
"""The first results have gradients; the others are kept for the backward pass."""


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    recurrence, interface, _bias, lengths = inputs[5:9]
    ctx.save_for_backward(output[0], *output[NUM_RESULTS:], recurrence, interface, lengths)
    ctx.options = inputs[9:15]


def _gradient(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.memnets.ntm_sequence_triton_backward(*gradients[:NUM_RESULTS], *ctx.saved_tensors, *ctx.options)
    return *found, *[None] * 8


ntm_sequence_triton.register_autograd(_gradient, setup_context=_save)
