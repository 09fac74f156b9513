"""The whole recurrence of an NTM as one op: controller, addressing, read and write, at every step (NTM paper, 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu import ntm_sequence as cpu
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
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: NTMWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Controller output beside the read vectors at every step, and the state after the last.

    With `lengths`, sequence b has its first lengths[b] steps: features after those are 0, and the state stays.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
        ValueError: a gate without similarity, an even shift width, or lengths beyond the steps there are (on a GPU,
            where looking would take time, such lengths are cut to what there is).
    """
    given = (inputs, state, weights, scheme, lengths)
    return run_kernel(*given) or ntm_sequence_reference(*given)


def run_kernel(
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: NTMWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result | None:
    """Return the same from a kernel; None if none serves, for callers with a step of their own to fall back on."""
    _check(scheme, lengths, inputs.shape[1])
    given = (inputs, lengths, *state, *weights)
    obstacles = {"triton": lambda: triton_obstacle(given, state.memory), "cpu": lambda: cpu_obstacle(given)}
    chosen = backend.choose("ntm_sequence", obstacles)
    if chosen == "reference":
        return None
    kernel = _triton() if chosen == "triton" else cpu
    features, *after = _in_one_precision(kernel.run, given, (scheme.similarity or "none", *scheme[1:]))
    return features, NTMSequenceState(*after)


def _check(scheme: HeadScheme, lengths: Tensor | None, steps: int) -> None:
    """Refuse what can't be. Lengths on a GPU are not looked at, as it would have to be waited for."""
    if scheme.gate and not scheme.similarity:
        raise ValueError("a gate interpolates content weights and previous ones: give a similarity, or gate=False")
    if scheme.shift_width and scheme.shift_width % 2 == 0:
        raise ValueError(f"shift_width must be odd, or 0 for no shift, not {scheme.shift_width}")
    if lengths is None or not lengths.is_cpu or not lengths.numel() or torch.compiler.is_compiling():
        return
    if lengths.min() < 0 or lengths.max() > steps:
        raise ValueError(f"lengths must be between 0 and the {steps} steps there are, not {lengths.tolist()}")


def _in_one_precision(
    run: Callable[..., tuple[Any, ...]], given: tuple[Any, ...], scheme: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Run in float32 at least and in one precision; the results have the widest of the arguments'."""
    dtypes = {tensor.dtype for tensor in given if tensor is not None and tensor.is_floating_point()}
    if not dtypes - {torch.float32} or not dtypes - {torch.float64}:
        return run(given, scheme)
    dtype = reduce(torch.promote_types, dtypes)

    def cast(tensors: tuple[Any, ...], to: torch.dtype) -> tuple[Any, ...]:
        return tuple(t if t is None or not t.is_floating_point() else t.to(to) for t in tensors)

    return cast(run(cast(given, torch.promote_types(dtype, torch.float32)), scheme), dtype)


def ntm_sequence_reference(
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: NTMWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Return the same, step by step in plain PyTorch."""
    features = []
    for step, step_inputs in enumerate(inputs.unbind(dim=1)):
        after = _step(step_inputs, state, weights, scheme)
        hidden = after.hidden
        assert hidden is not None
        step_features = torch.cat([hidden, rearrange(after.read_vectors, "b h w -> b (h w)")], dim=-1)
        if weights.recurrent is None:
            after = after._replace(hidden=None)
        if lengths is not None:
            step_features, after = _where(
                step < lengths, (step_features, after), (torch.zeros_like(step_features), state)
            )
        features.append(step_features)
        state = after
    return torch.stack(features, dim=1), state


def _where(running: Tensor, new: tuple[Tensor, NTMSequenceState], old: tuple[Tensor, NTMSequenceState]) -> Any:
    """Features and state of sequences that run on, and the old ones of those that have ended."""

    def choose(one: Any, other: Any) -> Any:
        return None if one is None else torch.where(running.view(-1, *[1] * (one.ndim - 1)), one, other)

    return choose(new[0], old[0]), NTMSequenceState(*map(choose, new[1], old[1]))


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


def _triton() -> Any:
    from memnets.kernels.triton import ntm_sequence as kernel

    return kernel


def triton_obstacle(given: tuple[Tensor | None, ...], memory: Tensor) -> str | None:
    """Return why the Triton kernel can't serve these tensors, None if it can: the memory must fit the chip."""
    return backend.triton_obstacle(*given, mixed=True) or _triton().obstacle(memory)


def cpu_obstacle(given: tuple[Tensor | None, ...]) -> str | None:
    """Return why the C++ kernel can't serve these tensors, None if it can.

    It serves plain tensors of real floating dtype on a CPU, with at least one sequence and one step, outside the
    transforms of torch.func. It has first derivatives only.
    """
    for tensor in given:
        if tensor is not None and not tensor.is_cpu:
            return f"tensors are on {tensor.device.type}, it runs on the CPU"
        if tensor is not None and type(tensor) not in PLAIN:
            return f"it takes plain tensors, not {type(tensor).__name__}"
    if given[0] is None or 0 in given[0].shape[:2]:
        return "there is nothing to run: no sequence or no step"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms can't look into it"
    return backend.build_obstacle("ntm_sequence", cpu.register)


PLAIN: tuple[type, ...] = (Tensor, torch.nn.Parameter)
