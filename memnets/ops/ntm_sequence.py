"""The whole recurrence of an NTM as one op: controller, addressing, read and write, at every step (NTM paper, 3)."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from memnets.ops import backend
from memnets.ops.content_address import Similarity, content_address
from memnets.ops.erase_add import read_and_write
from memnets.ops.shift_sharpen import shift_sharpen


class HeadScheme(NamedTuple):
    """Which parts every head's addressing has; they lie in this order in the head's slice of the interface."""

    similarity: Similarity | None = "cosine"
    strength: bool = True
    gate: bool = True
    shift_width: int = 3
    sharpening: bool = True

    def sizes(self, word_size: int) -> list[int]:
        """Numbers each part takes from the controller; 0 if it is left out."""
        return [
            word_size if self.similarity else 0,
            int(self.strength),
            int(self.gate),
            self.shift_width,
            int(self.sharpening),
        ]


class NTMWeights(NamedTuple):
    """Weights of an NTM. An LSTM has `recurrent` weights and 4 gates (i f g o) per hidden unit, a tanh layer neither.

    `input` sees the input, then the read vectors. Rows of `interface`: a slice per head, read heads first; then what
    each write head erases, then what each adds.
    """

    input: Float[Tensor, "gates seen"]
    recurrent: Float[Tensor, "gates hidden"] | None
    bias: Float[Tensor, " gates"]
    interface: Float[Tensor, "interface hidden"]
    interface_bias: Float[Tensor, " interface"]


class NTMSequenceState(NamedTuple):
    """What passes from step to step; `hidden` and `cell` are None without an LSTM."""

    memory: Float[Tensor, "batch slots word"]
    read_weights: Float[Tensor, "batch read_heads slots"]
    write_weights: Float[Tensor, "batch write_heads slots"]
    read_vectors: Float[Tensor, "batch read_heads word"]
    hidden: Float[Tensor, "batch hidden"] | None
    cell: Float[Tensor, "batch hidden"] | None


Result = tuple[Float[Tensor, "batch time features"], NTMSequenceState]


def ntm_sequence(
    inputs: Float[Tensor, "batch time input"], state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme
) -> Result:
    """Controller output beside the read vectors at every step, and the state after the last.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
    """
    return run_kernel(inputs, state, weights, scheme) or ntm_sequence_reference(inputs, state, weights, scheme)


def run_kernel(
    inputs: Float[Tensor, "batch time input"], state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme
) -> Result | None:
    """Return the same from a kernel; None if none serves, for callers with a step of their own to fall back on."""
    chosen = backend.choose("ntm_sequence", {"cpu": lambda: cpu_obstacle(inputs, state, weights)})
    return _cpu(inputs, state, weights, scheme) if chosen == "cpu" else None


def ntm_sequence_reference(
    inputs: Float[Tensor, "batch time input"], state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme
) -> Result:
    """Return the same, step by step in plain PyTorch."""
    features = []
    for step_inputs in inputs.unbind(dim=1):
        state = _step(step_inputs, state, weights, scheme)
        hidden = state.hidden
        assert hidden is not None
        features.append(torch.cat([hidden, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1))
        if weights.recurrent is None:
            state = state._replace(hidden=None)
    return torch.stack(features, dim=1), state


def _step(inputs: Tensor, state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme) -> NTMSequenceState:
    seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
    hidden, cell = _controller(seen, state, weights)
    num_reads, num_writes = state.read_weights.shape[1], state.write_weights.shape[1]
    word_size = state.memory.shape[2]
    address_size = (num_reads + num_writes) * sum(scheme.sizes(word_size))
    interface = F.linear(hidden, weights.interface, weights.interface_bias)
    erase, add = rearrange(interface[:, address_size:], "b (two h w) -> two b h w", two=2, h=num_writes)
    previous = torch.cat([state.read_weights, state.write_weights], dim=1)
    raw = rearrange(interface[:, :address_size], "b (h i) -> b h i", h=num_reads + num_writes)
    read_weights, write_weights = _address(raw, state.memory, previous, scheme).split([num_reads, num_writes], dim=1)
    read_vectors, memory = read_and_write(
        state.memory, read_weights, write_weights, torch.sigmoid(erase), torch.tanh(add)
    )
    return NTMSequenceState(memory, read_weights, write_weights, read_vectors, hidden, cell)


def _controller(seen: Tensor, state: NTMSequenceState, weights: NTMWeights) -> tuple[Tensor, Tensor | None]:
    """Hidden = o tanh(cell), cell = f cell + i g; or hidden = tanh of one layer."""
    sums = F.linear(seen, weights.input, weights.bias)
    if weights.recurrent is None:
        return torch.tanh(sums), None
    assert state.hidden is not None
    assert state.cell is not None
    insert, forget, candidate, emit = (sums + F.linear(state.hidden, weights.recurrent)).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * state.cell + torch.sigmoid(insert) * torch.tanh(candidate)
    return torch.sigmoid(emit) * torch.tanh(cell), cell


def _address(raw: Tensor, memory: Tensor, previous: Tensor, scheme: HeadScheme) -> Tensor:
    key, strength, gate, shift, sharpening = raw.split(scheme.sizes(memory.shape[2]), dim=-1)
    content = None
    if scheme.similarity:
        strengths = F.softplus(strength[..., 0]) if scheme.strength else torch.ones_like(key[..., 0])
        content = content_address(memory, torch.tanh(key), strengths, similarity=scheme.similarity)
    return shift_sharpen(
        content,
        previous,
        torch.sigmoid(gate[..., 0]) if scheme.gate else None,
        torch.softmax(shift, dim=-1) if scheme.shift_width else None,
        1 + F.softplus(sharpening[..., 0]) if scheme.sharpening else None,
    )


def cpu_obstacle(inputs: Tensor, state: NTMSequenceState, weights: NTMWeights) -> str | None:
    """Return why the C++ kernel can't serve these tensors, None if it can.

    It serves plain tensors of real floating dtype on a CPU, with at least one sequence and one step, outside the
    transforms of torch.func. It has first derivatives only.
    """
    for tensor in (inputs, *state, *weights):
        if tensor is not None and not tensor.is_cpu:
            return f"tensors are on {tensor.device.type}, it runs on the CPU"
        if tensor is not None and type(tensor) not in PLAIN:
            return f"it takes plain tensors, not {type(tensor).__name__}"
    if inputs.shape[0] == 0 or inputs.shape[1] == 0:
        return "there is nothing to run: no sequence or no step"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms can't look into it"
    return backend.build_obstacle("ntm_sequence", _register)


PLAIN: tuple[type, ...] = (Tensor, torch.nn.Parameter)


def _cpu(inputs: Tensor, state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme) -> Result:
    given = (inputs, *state, *weights)
    dtypes = {tensor.dtype for tensor in given if tensor is not None}
    if dtypes - {torch.float32} and dtypes - {torch.float64}:
        return _cpu_cast(dtypes, inputs, state, weights, scheme)
    options = (scheme.similarity or "none", *scheme[1:])
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    if keep and not torch.compiler.is_compiling():
        features, *state_after = _Sequence.apply(options, *given)
    else:
        features, *state_after = torch.ops.memnets.ntm_sequence_forward(*given, *options, keep)[:NUM_STATE]
    memory, read_weights, write_weights, cell = state_after
    hidden_size = weights.interface.shape[1]
    hidden, reads = features[:, -1].split([hidden_size, features.shape[2] - hidden_size], dim=-1)
    read_vectors = reads.view(state.read_vectors.shape)
    if weights.recurrent is None:
        hidden = cell = None
    return features, NTMSequenceState(memory, read_weights, write_weights, read_vectors, hidden, cell)


def _cpu_cast(
    dtypes: set[torch.dtype], inputs: Tensor, state: NTMSequenceState, weights: NTMWeights, scheme: HeadScheme
) -> Result:
    """Compute in float32 at least and in one precision; the results have the widest of the arguments'."""
    dtype = reduce(torch.promote_types, dtypes)

    def cast(part: Any, to: torch.dtype) -> Any:
        return type(part)(*(None if tensor is None else tensor.to(to) for tensor in part))

    wide = torch.promote_types(dtype, torch.float32)
    features, after = _cpu(inputs.to(wide), cast(state, wide), cast(weights, wide), scheme)
    return features.to(dtype), cast(after, dtype)


class _Sequence(torch.autograd.Function):
    """The op's gradient in eager mode: what `register_autograd` does, at a third of its cost per call."""

    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *given: Tensor | None) -> tuple[Tensor, ...]:
        arguments = (*given, *options, True)
        output = torch.ops.memnets.ntm_sequence_forward(*arguments)
        _save(ctx, arguments, output)
        return output[:NUM_STATE]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradient(ctx, *gradients)[:-6]


def _register() -> None:
    """Tell torch what the op's results look like and what its gradient is."""
    forward, backward = "memnets::ntm_sequence_forward", "memnets::ntm_sequence_backward"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)
    torch.library.register_autograd(forward, _gradient, setup_context=_save)


NUM_STATE = 5
"""The first results are features and state, which have gradients; the others are kept for the backward pass."""


def _fake_forward(
    inputs: Tensor, memory: Tensor, read_weights: Tensor, write_weights: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    _read_vectors, _hidden, cell, _input, _recurrent, _bias, interface, _interface_bias, *scheme, keep = rest
    similarity, _strength, _gate, _shift, sharpening = scheme
    (batch, time, _), (_, slots, word) = inputs.shape, memory.shape
    steps, states, num_reads = (time, time + 1, read_weights.shape[1]) if keep else (1, 2, read_weights.shape[1])
    heads, hidden = num_reads + write_weights.shape[1], interface.shape[1]
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
        (batch, states, word, slots),
        (batch, states, heads, slots),
        (batch, steps, heads, kept, slots),
        (batch, steps, slots if similarity == "cosine" else 0),
    ]
    return tuple(inputs.new_empty(shape) for shape in shapes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, _memory, read_weights, _write, read_vectors, hidden, _cell, *weights = inputs[:12]
    features, *_state = output[:NUM_STATE]
    ctx.save_for_backward(given, read_vectors, hidden, *weights, features, *output[NUM_STATE:])
    ctx.options = (read_weights.shape[1], *inputs[12:17])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    _inputs, _reads, _hidden, _input, recurrent, *_ = ctx.saved_tensors
    found = torch.ops.memnets.ntm_sequence_backward(*gradients[:NUM_STATE], *ctx.saved_tensors, *ctx.options)
    absent = () if recurrent is not None else (5, 6, 8)  # hidden, cell and recurrent weights
    return (*(None if i in absent else gradient for i, gradient in enumerate(found)), *[None] * 6)


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, read_vectors, _, input_weight, recurrent, bias, interface, interface_bias = arguments[5:13]
    memories, weights, read_heads = arguments[17], arguments[18], arguments[21]
    batch, _, word, slots = memories.shape
    gates, cells = input_weight.shape[0], 0 if recurrent is None else interface.shape[1]
    shapes = [
        inputs.shape,
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
