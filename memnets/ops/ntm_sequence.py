"""The whole recurrence of an NTM as one op: controller, addressing, read and write, at every step (NTM paper, 3)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memnets.kernels.cpu.ntm_sequence import NTM_SEQUENCE
from memnets.ops import backend
from memnets.ops.content_address import Similarity, content_address
from memnets.ops.erase_add import read_and_write
from memnets.ops.sequence import (
    SequenceWeights,
    check_lengths,
    controller_step,
    cpu_obstacle,
    in_one_precision,
    run_steps,
    without_padding,
)
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


class NTMSequenceState(NamedTuple):
    """What passes from step to step; `hidden` and `cell` are None without an LSTM."""

    memory: Float[Tensor, "batch slots word"]
    read_weights: Float[Tensor, "batch read_heads slots"]
    write_weights: Float[Tensor, "batch write_heads slots"]
    read_vectors: Float[Tensor, "batch read_heads word"]
    hidden: Float[Tensor, "batch layers hidden"] | None
    cell: Float[Tensor, "batch layers hidden"] | None


Result = tuple[Float[Tensor, "batch time features"], NTMSequenceState]


def ntm_sequence(
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: SequenceWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Controller output beside the read vectors at every step, and the state after the last.

    Rows of `weights.interface`: a slice per head, read heads first; then what each write head erases, then what each
    adds. With `lengths`, sequence b has its first lengths[b] steps: features after those are 0, and the state stays.

    Raises:
        BackendError: the backend asked for by name can't serve the call.
        ValueError: no head that writes, a gate without similarity, an even shift width, no steps, or lengths beyond the
            steps there are (on a GPU, where looking would take time, such lengths are cut to what there is).
    """
    given = (inputs, state, weights, scheme, lengths)
    return run_kernel(*given) or ntm_sequence_reference(*given)


def run_kernel(
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: SequenceWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result | None:
    """Return the same from a kernel; None if none serves, for callers with a step of their own to fall back on."""
    _check(scheme, state, lengths, inputs.shape[1])
    given = (without_padding(inputs, lengths), lengths, *state, *weights)
    obstacles = {
        "triton": lambda: _layers_obstacle(weights) or triton_obstacle(given, state.memory),
        "cpu": lambda: cpu_obstacle("ntm_sequence", NTM_SEQUENCE.register, given),
    }
    chosen = backend.choose("ntm_sequence", obstacles)
    if chosen == "reference":
        return None
    kernel = _triton() if chosen == "triton" else NTM_SEQUENCE
    features, *after = in_one_precision(kernel.run, given, (scheme.similarity or "none", *scheme[1:]))
    return features, NTMSequenceState(*after)


def _check(scheme: HeadScheme, state: NTMSequenceState, lengths: Tensor | None, steps: int) -> None:
    if not state.write_weights.shape[1]:
        raise ValueError("at least one head must write")
    if scheme.gate and not scheme.similarity:
        raise ValueError("a gate interpolates content weights and previous ones: give a similarity, or gate=False")
    if scheme.shift_width and scheme.shift_width % 2 == 0:
        raise ValueError(f"shift_width must be odd, or 0 for no shift, not {scheme.shift_width}")
    check_lengths(lengths, steps)


def ntm_sequence_reference(
    inputs: Float[Tensor, "batch time input"],
    state: NTMSequenceState,
    weights: SequenceWeights,
    scheme: HeadScheme,
    lengths: Int[Tensor, " batch"] | None = None,
) -> Result:
    """Return the same, step by step in plain PyTorch."""
    return run_steps(partial(_step, weights=weights, scheme=scheme), inputs, state, lengths)


def _step(
    inputs: Tensor, state: NTMSequenceState, weights: SequenceWeights, scheme: HeadScheme
) -> tuple[Tensor, NTMSequenceState]:
    seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
    output, hidden, cell = controller_step(seen, state.hidden, state.cell, weights)
    num_reads, num_writes = state.read_weights.shape[1], state.write_weights.shape[1]
    word_size = state.memory.shape[2]
    address_size = (num_reads + num_writes) * sum(scheme.sizes(word_size))
    interface = F.linear(output, weights.interface, weights.interface_bias)
    erase, add = rearrange(interface[:, address_size:], "b (two h w) -> two b h w", two=2, h=num_writes)
    previous = torch.cat([state.read_weights, state.write_weights], dim=1)
    raw = rearrange(interface[:, :address_size], "b (h i) -> b h i", h=num_reads + num_writes)
    read_weights, write_weights = _address(raw, state.memory, previous, scheme).split([num_reads, num_writes], dim=1)
    read_vectors, memory = read_and_write(
        state.memory, read_weights, write_weights, torch.sigmoid(erase), torch.tanh(add)
    )
    features = torch.cat([output, rearrange(read_vectors, "b h w -> b (h w)")], dim=-1)
    return features, NTMSequenceState(memory, read_weights, write_weights, read_vectors, hidden, cell)


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


def _layers_obstacle(weights: SequenceWeights) -> str | None:
    return None if weights.upper is None else f"it runs one layer, not {1 + len(weights.upper)}"


def _triton() -> Any:
    from memnets.kernels.triton import ntm_sequence as kernel

    return kernel


def triton_obstacle(given: tuple[Tensor | None, ...], memory: Tensor) -> str | None:
    """Return why the Triton kernel can't serve these tensors, None if it can: the memory must fit the chip."""
    return backend.triton_obstacle(*given, mixed=True) or _triton().obstacle(memory)
