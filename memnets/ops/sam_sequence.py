"""The whole recurrence of a sparse access memory as one op: controller, write and read of k slots per head, every step.

SAM: Rae et al. 2016 (arXiv:1610.09027), section 3. A slot that was never used is zero, and of all never used ones the
lowest is the next to be written to or, for want of better ones, to be read. So the used slots are always the first
ones, a step uses at most heads + k new ones, and the memory is held up to there: what a step costs depends on how many
slots were used, not on how many there are. Results are those of a memory with all `memory_size` slots.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu.sam_sequence import SAM_SEQUENCE
from memnets.ops import backend
from memnets.ops.lru_write import lru_write
from memnets.ops.sequence import (
    SequenceWeights,
    check_lengths,
    controller_step,
    cpu_obstacle,
    in_one_precision,
    run_steps,
    without_padding,
)
from memnets.ops.sparse_access import sparse_read
from memnets.ops.sparse_content import sparse_content_address


class SAMScheme(NamedTuple):
    """How many slots there are at most, and from which weight on a slot counts as used."""

    memory_size: int
    threshold: float = 0.005


class SAMAccessState(NamedTuple):
    """The first slots of a memory, those that were used among them, and where the heads are.

    `last_access` is the step at which a slot was last used, counted by `clock` from 1; 0: never.
    """

    memory: Float[Tensor, "batch touched word"]
    read_weights: Float[Tensor, "batch heads k"]
    write_weights: Float[Tensor, "batch heads places"]
    last_access: Int[Tensor, "batch touched"]
    clock: Int[Tensor, " batch"]
    read_slots: Int[Tensor, "batch heads k"]
    write_slots: Int[Tensor, "batch heads places"]


class SAMSequenceState(NamedTuple):
    """What passes from step to step: a SAMAccessState's tensors; `hidden` and `cell` are None without an LSTM."""

    memory: Float[Tensor, "batch touched word"]
    read_weights: Float[Tensor, "batch heads k"]
    write_weights: Float[Tensor, "batch heads places"]
    last_access: Int[Tensor, "batch touched"]
    clock: Int[Tensor, " batch"]
    read_slots: Int[Tensor, "batch heads k"]
    write_slots: Int[Tensor, "batch heads places"]
    read_vectors: Float[Tensor, "batch heads word"]
    hidden: Float[Tensor, "batch layers hidden"] | None
    cell: Float[Tensor, "batch layers hidden"] | None


Result = tuple[Float[Tensor, "batch time features"], SAMSequenceState]


def sam_sequence(
    inputs: Float[Tensor, "batch time input"],
    state: SAMSequenceState,
    weights: SequenceWeights,
    scheme: SAMScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Controller output beside the read vectors at every step, and the state after the last.

    Rows of `weights.interface`: a slice per head of key, strength, interpolation gate, write gate and what it adds.
    With `lengths`, sequence b has its first lengths[b] steps: features after those are 0, and the state stays. The
    state after holds heads + k more slots per step of `inputs`, as far as there are any.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
        ValueError: more heads or reads than slots, a state of more slots than there are, a threshold below 0, no steps,
            or lengths beyond the steps there are (on a GPU, where looking would take time, such lengths are cut to what
            there is).
    """
    given = (inputs, state, weights, scheme, lengths)
    return run_kernel(*given) or sam_sequence_reference(*given)


def run_kernel(
    inputs: Float[Tensor, "batch time input"],
    state: SAMSequenceState,
    weights: SequenceWeights,
    scheme: SAMScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result | None:
    """Return the same from a kernel; None if none serves, for callers with a step of their own to fall back on."""
    _check(state, scheme, lengths, inputs.shape[1])
    given = (without_padding(inputs, lengths), lengths, *state, *weights)
    obstacles = {"cpu": lambda: cpu_obstacle("sam_sequence", SAM_SEQUENCE.register, given)}
    if backend.choose("sam_sequence", obstacles) == "reference":
        return None
    access = with_room(SAMAccessState(*state[:7]), inputs.shape[1], scheme.memory_size)
    given = (given[0], lengths, *access, *state[7:], *weights)
    features, *after = in_one_precision(SAM_SEQUENCE.run, given, (scheme.threshold,))
    return features, SAMSequenceState(*after)


def _check(state: SAMSequenceState, scheme: SAMScheme, lengths: Tensor | None, steps: int) -> None:
    heads, k = state.read_slots.shape[1:]
    for what, size in (("heads", heads), ("reads of a head", k), ("slots in the state", state.memory.shape[1])):
        if size > scheme.memory_size:
            raise ValueError(f"{what} must be at most memory_size, which is {scheme.memory_size}, not {size}")
    check_threshold(scheme.threshold)
    check_lengths(lengths, steps)


def check_threshold(threshold: float) -> None:
    """Refuse one by which slots that nobody touched would count as used.

    Raises:
        ValueError: it is below 0.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, not {threshold}")


def sam_sequence_reference(
    inputs: Float[Tensor, "batch time input"],
    state: SAMSequenceState,
    weights: SequenceWeights,
    scheme: SAMScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Return the same, step by step in plain PyTorch."""
    access = with_room(SAMAccessState(*state[:7]), inputs.shape[1], scheme.memory_size)
    state = SAMSequenceState(*access, *state[7:])
    return run_steps(partial(_step, weights=weights, threshold=scheme.threshold), inputs, state, lengths)


def with_room(state: SAMAccessState, steps: int, memory_size: int) -> SAMAccessState:
    """Hold as many further slots as so many steps may use."""
    batch, touched, word = state.memory.shape
    heads, k = state.read_slots.shape[1:]
    more = min(memory_size - touched, steps * (heads + k))
    memory = torch.cat([state.memory, state.memory.new_zeros(batch, more, word)], dim=1)
    last_access = torch.cat([state.last_access, state.last_access.new_zeros(batch, more)], dim=1)
    return state._replace(memory=memory, last_access=last_access)


def access_step(
    interface: Float[Tensor, "batch interface"], state: SAMAccessState, threshold: float
) -> tuple[Float[Tensor, "batch heads word"], SAMAccessState]:
    """One step of the heads in a memory with room for it: they write, then they read what is there."""
    (heads, k), word_size = state.read_slots.shape[1:], state.memory.shape[2]
    raw = rearrange(interface.to(state.memory.dtype), "b (h i) -> b h i", h=heads)
    key, strength, interpolation_gate, write_gate, add = raw.split([word_size, 1, 1, 1, word_size], dim=-1)
    memory, write_weights, write_slots = lru_write(
        state.memory,
        state.last_access,
        state.read_weights,
        state.read_slots,
        torch.sigmoid(interpolation_gate[..., 0]),
        torch.sigmoid(write_gate[..., 0]),
        torch.tanh(add),
    )
    read_weights, read_slots = sparse_content_address(memory, torch.tanh(key), F.softplus(strength[..., 0]), k)
    weights, slots = torch.cat([write_weights, read_weights], -1), torch.cat([write_slots, read_slots], -1)
    clock = state.clock + 1
    last_access = last_access_after(state.last_access, clock, weights, slots, threshold)
    after = SAMAccessState(memory, read_weights, write_weights, last_access, clock, read_slots, write_slots)
    return sparse_read(memory, read_weights, read_slots), after


def last_access_after(
    last_access: Int[Tensor, "batch slots"],
    clock: Int[Tensor, " batch"],
    weights: Float[Tensor, "batch heads accesses"],
    slots: Int[Tensor, "batch heads accesses"],
    threshold: float,
) -> Int[Tensor, "batch slots"]:
    """Steps at which slots were last used: now where a slot's weights, all heads' together, exceed the threshold."""
    nothing = torch.zeros_like(last_access, dtype=weights.dtype)
    total = nothing.scatter_add(1, slots.flatten(1), weights.detach().flatten(1))
    return torch.where(total > threshold, clock[:, None], last_access)


def _step(
    inputs: Tensor, state: SAMSequenceState, weights: SequenceWeights, threshold: float
) -> tuple[Tensor, SAMSequenceState]:
    seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
    output, hidden, cell = controller_step(seen, state.hidden, state.cell, weights)
    interface = F.linear(output, weights.interface, weights.interface_bias)
    read_vectors, access = access_step(interface, SAMAccessState(*state[:7]), threshold)
    features = torch.cat([output, rearrange(read_vectors, "b h w -> b (h w)")], dim=-1)
    return features, SAMSequenceState(*access, read_vectors, hidden, cell)
