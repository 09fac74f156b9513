"""A sparse access memory's heads: the controller's output becomes a write and a read of a few slots (SAM paper, 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from memnets.contracts import reset_rows
from memnets.memory.access import Access, check_sizes, make_interface
from memnets.memory.addressing import split_heads
from memnets.ops.sam_sequence import SAMAccessState, SAMScheme, access_step, check_threshold, with_room


class SAMAccess(Access):
    """Heads that each write to what they read a step ago and to a slot nobody used for longest, then read k slots.

    The memory starts at zero. Reads see this step's writes.

    Args:
        controller_size: width of the controller's output.
        memory_size: number of slots; time and memory of a step don't depend on it.
        word_size: width of a slot.
        num_heads: at least 1; each writes and reads.
        top_k: slots that a head reads.
        threshold: weight, at least 0, above which a slot counts as used.
    """

    def __init__(
        self, controller_size: int, memory_size: int, word_size: int, num_heads: int, top_k: int, threshold: float
    ) -> None:
        super().__init__(word_size, num_heads)
        check_sizes(memory_size=memory_size, word_size=word_size, num_heads=num_heads, top_k=top_k)
        for name, size in (("num_heads", num_heads), ("top_k", top_k)):
            if size > memory_size:
                raise ValueError(f"{name} must be at most memory_size, which is {memory_size}, not {size}")
        check_threshold(threshold)
        self.top_k = top_k
        self.scheme = SAMScheme(memory_size, threshold)
        self.interface = make_interface(controller_size, num_heads * (2 * word_size + 3))

    def initial_state(self, batch_size: int) -> SAMAccessState:
        """No slot was used; heads are at the first ones with weight 0."""
        heads, k, weight = self.num_read_heads, self.top_k, self.interface.weight
        slots = torch.arange(k + 1, device=weight.device).expand(batch_size, heads, -1)
        nothing = weight.new_zeros(batch_size, heads, k + 1)
        return SAMAccessState(
            memory=weight.new_zeros(batch_size, 0, self.word_size),
            read_weights=nothing[..., :k],
            write_weights=nothing,
            last_access=slots.new_zeros(batch_size, 0),
            clock=slots.new_zeros(batch_size),
            read_slots=slots[..., :k],
            write_slots=slots.clamp_max(self.scheme.memory_size - 1),
        )

    def forward(
        self, controller_output: Float[Tensor, "batch hidden"], state: SAMAccessState
    ) -> tuple[Float[Tensor, "batch heads word"], SAMAccessState]:
        """Read vectors, and the state after this step, which may hold heads + k more slots."""
        state = with_room(state, 1, self.scheme.memory_size)
        return access_step(self.interface(controller_output), state, self.scheme.threshold)

    def held(self, state: SAMAccessState) -> Bool[Tensor, "batch touched"]:
        """Slots that were written: they start at zero, and writing over one erases it first."""
        return (state.memory != 0).any(-1)

    def read_weights(self, state: SAMAccessState) -> Float[Tensor, "batch heads touched"]:
        """Weights of the last read over the slots that are there; before the first step heads are at others, with 0."""
        slots, touched = state.read_slots, state.memory.shape[1]
        size = max(touched, 1 + int(slots.max()))
        dense = state.read_weights.new_zeros(*slots.shape[:2], size).scatter_add(2, slots, state.read_weights)
        return dense[..., :touched]

    def emitted(self, controller_output: Float[Tensor, "batch hidden"]) -> dict[str, Float[Tensor, "batch heads ..."]]:
        """Strength and gates of every head, by name, for pictures."""
        raw = split_heads(self.interface(controller_output), self.num_read_heads)
        strength, interpolation_gate, write_gate = raw[..., self.word_size : self.word_size + 3].unbind(-1)
        return {
            "strength": F.softplus(strength),
            "interpolation_gate": torch.sigmoid(interpolation_gate),
            "write_gate": torch.sigmoid(write_gate),
        }

    def restart(self, state: SAMAccessState, starts: Bool[Tensor, " batch"]) -> SAMAccessState:
        """The state with marked rows at their beginning; it holds no more slots than the rows together use."""
        held = state.memory.shape[1]
        fresh = with_room(self.initial_state(len(starts)), held, held)
        state = reset_rows(state, fresh, starts)
        used = ((state.last_access > 0) | state.memory.any(-1)).any(0).nonzero()
        num_used = 1 + max(int(slots.max()) if slots.numel() else -1 for slots in (used, state.read_slots))
        return state._replace(memory=state.memory[:, :num_used], last_access=state.last_access[:, :num_used])
