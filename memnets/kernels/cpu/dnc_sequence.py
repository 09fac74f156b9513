"""The C++ kernel of `dnc_sequence`: what its memory leaves behind for the backward pass."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from memnets.kernels.cpu.ntm_sequence import MEMORY_INTERVAL
from memnets.kernels.cpu.sequence import CPUSequence, SequenceSizes, Shapes, Steps


def link_interval(steps: int) -> int:
    """Return how many steps apart links are kept for the backward pass, √steps rounded up, as in dnc_heads.h."""
    return math.isqrt(steps - 1) + 1


def _traces(sizes: SequenceSizes, state: tuple[Tensor, ...], options: tuple[Any, ...]) -> Shapes:
    """Of emitted, memories, the rows that pass from step to step, those a step leaves, links."""
    memory, _usage, _precedence, link, read_weights, _write_weights = state
    mask, _deallocation, linked, link_sharpening = options
    (batch, interface, steps, states, keep), (_, slots, word) = sizes, memory.shape
    num_reads = read_weights.shape[1]
    heads = num_reads + 1
    sharpenings = 2 * num_reads * link_sharpening
    found = 2 * num_reads * linked + sharpenings
    shapes = [
        (batch, steps, interface + heads + sharpenings + heads * word * mask),
        (batch, steps // MEMORY_INTERVAL + 1 if keep else 1, word, slots),
        (batch, states, heads + 1 + linked, slots),
        (batch, steps, 2 * heads + (heads if mask else 2) + found, slots),
        (batch, (steps - 1) // link_interval(steps) + 1 if keep else 0, *link.shape[1:]),
    ]
    return [Steps(shape) for shape in shapes]


def _state(read_vectors: Tensor, traces: tuple[Any, ...]) -> Shapes:
    _emitted, memories, _rows, _traces, links, *_ = traces
    (batch, _, word, slots), linked = memories.shape, links.shape[2]
    return [
        (batch, slots, word),
        (batch, slots),
        (batch, linked),
        (batch, linked, linked),
        (batch, read_vectors.shape[1], slots),
        (batch, 1, slots),
    ]


DNC_SEQUENCE = CPUSequence("dnc_sequence", num_state=6, trace_shapes=_traces, state_shapes=_state)
"""Options: mask, deallocation, link, link sharpening. Without links, precedence and link are tensors of no slots."""
