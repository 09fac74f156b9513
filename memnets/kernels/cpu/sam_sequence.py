"""The C++ kernel of `sam_sequence`: what its memory leaves behind for the backward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memnets.kernels.cpu.sequence import CPUSequence, Integers, SequenceSizes, Shapes, Steps


def _traces(sizes: SequenceSizes, state: tuple[Tensor, ...], options: tuple[Any, ...]) -> Shapes:
    """Of emitted, read weights, slots, replaced rows, the last memory."""
    (batch, interface, steps, states, keep), memory, read_weights = sizes, *state[:2]
    (_, slots, word), (_, heads, k) = memory.shape, read_weights.shape
    return [
        Steps((batch, steps, interface)),
        Steps((batch, states, heads, k)),
        Integers((batch, states, heads, k + 1)),
        Steps((batch, steps, heads * (k + 1), word)),
        (batch, slots if keep else 0, word),
    ]


def _state(read_vectors: Tensor, traces: tuple[Any, ...]) -> Shapes:
    _emitted, weights, _slots, _replaced, memories, *_ = traces
    batch, _, heads, k = weights.shape
    return [memories.shape, (batch, heads, k), (batch, heads, k + 1)]


SAM_SEQUENCE = CPUSequence("sam_sequence", num_state=7, trace_shapes=_traces, state_shapes=_state, num_integers=4)
"""Option: the threshold."""
