"""Sparse access memory (SAM: Rae et al. 2016, arXiv:1610.09027)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor

from memnets.contracts import Spec, reset_rows
from memnets.memory.sam_access import SAMAccess
from memnets.models.controller import Controller, LSTMController
from memnets.models.machine import Machine, MachineState
from memnets.models.sam_sequence import SAM_SEQUENCE


class SAM(Machine):
    """Heads that each read and write a few slots, so that a step costs the same in a small memory as in a vast one.

    Heads and reads are the paper's; memory and word are the NTM's, to compare with. Every head takes the slot that was
    unused for longest at every step, so that after memory_size / num_heads steps the first things written are lost if
    nothing was read since: long sequences need more slots, which cost nothing until they are used.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        memory_size: number of slots.
        word_size: width of a slot.
        num_heads: heads, each of which writes and reads.
        top_k: slots that a head reads.
        threshold: weight above which a slot counts as used.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    fused = SAM_SEQUENCE
    state_grows: ClassVar[bool] = True

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller] = LSTMController,
        memory_size: int = 128,
        word_size: int = 20,
        num_heads: int = 4,
        top_k: int = 4,
        threshold: float = 0.005,
        embedding_size: int = 64,
        recompute: bool = False,
    ) -> None:
        def access(controller_size: int) -> SAMAccess:
            return SAMAccess(controller_size, memory_size, word_size, num_heads, top_k, threshold)

        super().__init__(spec, controller, access, num_heads, word_size, embedding_size, recompute)

    def restart(self, state: MachineState, starts: Bool[Tensor, " batch"]) -> MachineState:
        """Return the state with marked rows at their beginning; their slots are there to be used anew."""
        access = self.cell.access
        assert isinstance(access, SAMAccess)
        began = reset_rows(state._replace(access=()), self.initial_state(len(starts))._replace(access=()), starts)
        return began._replace(access=access.restart(state.access, starts))
