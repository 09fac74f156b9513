"""A DNC's heads on its memory: the controller's output becomes a write, then reads (Graves et al. 2016, Methods)."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.memory.access import Access, check_sizes, make_interface
from memnets.memory.dnc_addressing import DNCAddressing
from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.erase_add import erase_add, read

TRACED = (
    "read_strength",
    "write_strength",
    "free_gates",
    "allocation_gate",
    "write_gate",
    "read_modes",
    "link_sharpening",
)
"""What the heads emit that says something by itself, unlike a key."""

IN_USE = 0.05
"""Usage from which on a slot is said to hold something: a write by content leaves a little everywhere."""


class DNCAccessState(NamedTuple):
    """A memory, how much its slots are in use, in which order they were written, and where the heads are.

    `link` at (i, j) says how much slot i was written right after slot j; without links it is None, and precedence too.
    """

    memory: Float[Tensor, "batch slots word"]
    usage: Float[Tensor, "batch slots"]
    precedence_weights: Float[Tensor, "batch slots"] | None
    link: Float[Tensor, "batch slots slots"] | None
    read_weights: Float[Tensor, "batch read_heads slots"]
    write_weights: Float[Tensor, "batch 1 slots"]


class DNCAccess(Access):
    """One write head and the read heads of one memory.

    The write head finds its slot in the memory as it is before the step. Reads come after the write and see it, as do
    the links they follow.

    Args:
        controller_size: width of the controller's output.
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: at least 1.
        addressing: which parts there are.
        initial_memory: maps a batch size to the first content.
    """

    def __init__(
        self,
        controller_size: int,
        memory_size: int,
        word_size: int,
        num_read_heads: int,
        addressing: DNCAddressing,
        initial_memory: nn.Module,
    ) -> None:
        super().__init__(word_size, num_read_heads)
        check_sizes(memory_size=memory_size, word_size=word_size, num_read_heads=num_read_heads)
        self.memory_size = memory_size
        self.addressing = addressing
        self.initial_memory = initial_memory
        self.interface = make_interface(controller_size, addressing.interface_size(word_size, num_read_heads))

    def initial_state(self, batch_size: int) -> DNCAccessState:
        """Initial memory; nothing is in use, linked, read or written."""
        memory = self.initial_memory(batch_size)
        slots = memory.new_zeros(batch_size, self.memory_size)
        links = self.addressing.link is not None
        return DNCAccessState(
            memory,
            usage=slots,
            precedence_weights=slots if links else None,
            link=slots[:, :, None].expand(-1, -1, self.memory_size) if links else None,
            read_weights=slots[:, None].expand(-1, self.num_read_heads, -1),
            write_weights=slots[:, None],
        )

    def forward(
        self, controller_output: Float[Tensor, "batch hidden"], state: DNCAccessState
    ) -> tuple[Float[Tensor, "batch read_heads word"], DNCAccessState]:
        """Read vectors, and the state after this step."""
        emitted, addressing = self._emit(controller_output), self.addressing
        free_gates = emitted["free_gates"].squeeze(-1)
        usage, retention = usage_after(state.usage, state.write_weights[:, 0], state.read_weights, free_gates)
        write_weights = addressing.write_weights(emitted, state.memory, allocation_weights(usage))
        memory = addressing.deallocation(state.memory, retention) if addressing.deallocation else state.memory
        memory = erase_add(memory, write_weights, emitted["erase"], emitted["add"])
        precedence_weights, link = state.precedence_weights, state.link
        if addressing.link is not None and precedence_weights is not None and link is not None:
            precedence_weights, link = addressing.link.after(link, precedence_weights, write_weights[:, 0])
        read_weights = addressing.read_weights(emitted, memory, link, state.read_weights)
        after = DNCAccessState(memory, usage, precedence_weights, link, read_weights, write_weights)
        return read(memory, read_weights), after

    def held(self, state: DNCAccessState) -> Bool[Tensor, "batch slots"]:
        """Slots in use by more than `IN_USE`; the state's usage is that before the step's write, which counts too."""
        written = state.write_weights[:, 0]
        return state.usage + (1 - state.usage) * written > IN_USE

    def emitted(self, controller_output: Float[Tensor, "batch hidden"]) -> dict[str, Float[Tensor, "batch heads ..."]]:
        """What the heads emit at a step, by name, for pictures: those of `TRACED` that there are.

        Strengths and gates are `[batch heads]`; `read_modes` has a last axis of backward, content, forward,
        `link_sharpening` one of forward, backward.
        """
        emitted = self._emit(controller_output)
        return {name: emitted[name].squeeze(-1) for name in TRACED if name in emitted}

    def _emit(self, controller_output: Tensor) -> dict[str, Tensor]:
        return self.addressing.emit(self.interface(controller_output), self.word_size, self.num_read_heads)
