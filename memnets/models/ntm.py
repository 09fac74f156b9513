"""Neural Turing Machine (Graves, Wayne & Danihelka 2014, arXiv:1410.5401)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from memnets.contracts import Spec
from memnets.memory.addressing import Addressing
from memnets.memory.initial_memory import ConstantMemory
from memnets.memory.ntm_access import NTMAccess
from memnets.models.controller import Controller, LSTMController
from memnets.models.machine import Machine
from memnets.models.ntm_sequence import NTM_SEQUENCE


class NTM(Machine):
    """Heads that find their slots by content and by location, step by step.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        addressing: how heads find their slots.
        initial_memory: makes the first memory for (memory_size, word_size).
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: heads that read.
        num_write_heads: heads that write.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    fused = NTM_SEQUENCE

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller] = LSTMController,
        addressing: Addressing | None = None,
        initial_memory: Callable[[int, int], nn.Module] = ConstantMemory,
        memory_size: int = 128,
        word_size: int = 20,
        num_read_heads: int = 1,
        num_write_heads: int = 1,
        embedding_size: int = 64,
        recompute: bool = False,
    ) -> None:
        def access(controller_size: int) -> NTMAccess:
            return NTMAccess(
                controller_size,
                memory_size,
                word_size,
                num_read_heads,
                num_write_heads,
                addressing or Addressing(),
                initial_memory(memory_size, word_size),
            )

        super().__init__(spec, controller, access, num_read_heads, word_size, embedding_size, recompute)
