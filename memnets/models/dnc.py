"""Differentiable Neural Computer (Graves et al. 2016, Nature 538, doi:10.1038/nature20101)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from memnets.contracts import Spec
from memnets.memory.dnc_access import DNCAccess
from memnets.memory.dnc_addressing import DNCAddressing
from memnets.memory.initial_memory import ConstantMemory
from memnets.models.controller import Controller, LSTMController
from memnets.models.dnc_sequence import DNC_SEQUENCE
from memnets.models.machine import Machine


class DNC(Machine):
    """One head allocates slots and writes to them; heads read by content or in the order of writing.

    Sizes are those of the NTM, to compare with; the paper's for bAbI are a memory of 256 x 64, 4 read heads and an
    LSTM of 256. Its memory starts at zero: beside the 1e-8 in a cosine's norms, the 1e-6 of `ConstantMemory` tells no
    slot from another either.

    Step by step, the backward pass keeps memory_size² numbers per step and sequence for the links (4 MB in float32 at
    1,000 slots); with `recompute` those of about 2√T of T steps, with `addressing.link` null none.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        addressing: which parts of addressing there are.
        initial_memory: makes the first memory for (memory_size, word_size).
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: heads that read.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    fused = DNC_SEQUENCE

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller] = LSTMController,
        addressing: DNCAddressing | None = None,
        initial_memory: Callable[[int, int], nn.Module] = ConstantMemory,
        memory_size: int = 128,
        word_size: int = 20,
        num_read_heads: int = 1,
        embedding_size: int = 64,
        recompute: bool = False,
    ) -> None:
        def access(controller_size: int) -> DNCAccess:
            return DNCAccess(
                controller_size,
                memory_size,
                word_size,
                num_read_heads,
                addressing or DNCAddressing(),
                initial_memory(memory_size, word_size),
            )

        super().__init__(spec, controller, access, num_read_heads, word_size, embedding_size, recompute)
