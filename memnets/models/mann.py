"""Memory-augmented network for meta-learning (Santoro et al. 2016, arXiv:1605.06065)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from memnets.contracts import Spec
from memnets.memory.addressing import Addressing
from memnets.memory.initial_memory import ConstantMemory
from memnets.memory.lru_access import LRUAccess
from memnets.models.controller import Controller, LSTMController
from memnets.models.machine import Machine


class MANN(Machine):
    """Heads that find their slots by content, and write over what was least recently used.

    Sizes are the paper's: an LSTM of 200 (`configs/model/mann.yaml`), 128 slots of 40, 4 heads. It runs step by step.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        addressing: how heads find what they read; None is the paper's, a key alone.
        initial_memory: makes the first memory for (memory_size, word_size).
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: heads; each reads and writes.
        usage_decay: share of a slot's usage that is left after a step.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller] = LSTMController,
        addressing: Addressing | None = None,
        initial_memory: Callable[[int, int], nn.Module] = ConstantMemory,
        memory_size: int = 128,
        word_size: int = 40,
        num_read_heads: int = 4,
        usage_decay: float = 0.95,
        embedding_size: int = 64,
        recompute: bool = False,
    ) -> None:
        content = Addressing(strength=None, gate=None, shift=None, sharpening=None)

        def access(controller_size: int) -> LRUAccess:
            return LRUAccess(
                controller_size,
                memory_size,
                word_size,
                num_read_heads,
                addressing or content,
                initial_memory(memory_size, word_size),
                usage_decay,
            )

        super().__init__(spec, controller, access, num_read_heads, word_size, embedding_size, recompute)
