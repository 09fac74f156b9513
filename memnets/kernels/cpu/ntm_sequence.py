"""The C++ kernel of `ntm_sequence`: what its memory leaves behind for the backward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memnets.kernels.cpu.sequence import CPUSequence, SequenceSizes, Shapes, Steps

MEMORY_INTERVAL = 6
"""A memory is kept for the backward pass every so many steps, as in trace.h."""


def _traces(sizes: SequenceSizes, state: tuple[Tensor, ...], options: tuple[Any, ...]) -> Shapes:
    """Of emitted, memories, weights, addressing's traces."""
    memory, read_weights, write_weights = state
    similarity = options[0]
    (batch, interface, steps, states, keep), (_, slots, word) = sizes, memory.shape
    heads = read_weights.shape[1] + write_weights.shape[1]
    shapes = [
        (batch, steps, interface),
        (batch, steps // MEMORY_INTERVAL + 1 if keep else 1, word, slots),
        (batch, states, heads, slots),
        (batch, steps, heads, 0 if similarity == "none" else 2, slots),
    ]
    return [Steps(shape) for shape in shapes]


def _state(read_vectors: Tensor, traces: tuple[Any, ...]) -> Shapes:
    _emitted, memories, weights, *_ = traces
    (batch, _, word, slots), read_heads = memories.shape, read_vectors.shape[1]
    return [(batch, slots, word), (batch, read_heads, slots), (batch, weights.shape[2] - read_heads, slots)]


NTM_SEQUENCE = CPUSequence("ntm_sequence", num_state=3, trace_shapes=_traces, state_shapes=_state)
"""Options: similarity ("none" for none), strength, gate, shift width, sharpening."""
