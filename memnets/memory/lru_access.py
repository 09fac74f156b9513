"""Least recently used access: a memory that writes over what is no longer read (Santoro et al. 2016, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.memory.access import Access, check_sizes, make_interface
from memnets.memory.addressing import Addressing, Gate, split_heads

START_STRENGTH = 5.0
"""Strength to begin with: a slot that equals the key then gets 54 % of the weight, if 127 others are empty."""


class LRUAccessState(NamedTuple):
    """A memory, how much each slot was used of late, and where its heads are."""

    memory: Float[Tensor, "batch slots word"]
    usage: Float[Tensor, "batch slots"]
    read_weights: Float[Tensor, "batch heads slots"]
    write_weights: Float[Tensor, "batch heads slots"]


class LRUAccess(Access):
    """Heads that each read by content, and write their key where they last read or where nobody has for long.

    Every head emits a key and a write gate; memory and usage take the sum over heads:

    ```
    write_weights = gate * previous read_weights + (1 - gate) * least_used                       (equations 6 and 7)
    memory        = memory, zero at the least used slots, + write_weights * key                          (equation 8)
    usage         = decay * usage + read_weights + write_weights                                         (equation 5)
    ```

    `least_used` is one-hot, from the usage before the step: of n heads, each has one of the n least used slots to
    itself. (The paper gives all heads the same n slots, and zeroes one; with one head that is the same.) Heads read
    after they write: a key just written is found at once, and what the next step learns of it goes to the same slot.

    Args:
        controller_size: width of the controller's output.
        memory_size: number of slots; at least one for each head.
        word_size: width of a slot.
        num_read_heads: heads; each reads and writes.
        addressing: how every head finds the slots it reads; the paper's has a key and nothing else.
        initial_memory: maps a batch size to the first content.
        usage_decay: share of usage that is left after a step.
    """

    def __init__(
        self,
        controller_size: int,
        memory_size: int,
        word_size: int,
        num_read_heads: int,
        addressing: Addressing,
        initial_memory: nn.Module,
        usage_decay: float = 0.95,
    ) -> None:
        super().__init__(word_size, num_read_heads)
        check_sizes(memory_size=memory_size, word_size=word_size, num_read_heads=num_read_heads)
        if memory_size < num_read_heads:
            raise ValueError(
                f"memory_size={memory_size} must be at least num_read_heads={num_read_heads}: "
                f"at each step every head takes a slot of its own"
            )
        if addressing.key is None:
            raise ValueError("addressing.key is null, but the key is what least recently used access writes")
        if not 0 <= usage_decay < 1:
            raise ValueError(f"usage_decay must be at least 0 and below 1, not {usage_decay}")
        self.memory_size, self.usage_decay = memory_size, usage_decay
        self.addressing, self.write_gate, self.initial_memory = addressing, Gate(), initial_memory
        self._address_size = addressing.interface_size(word_size)
        size = self._address_size + self.write_gate.size(word_size)
        self.interface = make_interface(controller_size, num_read_heads * size)
        if addressing.strength is not None:
            with torch.no_grad():
                self.interface.bias.view(num_read_heads, size)[:, word_size] = START_STRENGTH

    def initial_state(self, batch_size: int) -> LRUAccessState:
        """Initial memory; nothing was used, read or written."""
        unused = self.interface.weight.new_zeros(batch_size, self.memory_size)
        nowhere = unused[:, None].expand(-1, self.num_read_heads, -1)
        return LRUAccessState(self.initial_memory(batch_size), unused, nowhere, nowhere)

    def forward(
        self, controller_output: Float[Tensor, "batch hidden"], state: LRUAccessState
    ) -> tuple[Float[Tensor, "batch heads word"], LRUAccessState]:
        """Read vectors, and the state after this step's writes."""
        address, gates = self._emit(controller_output)
        gate = gates[..., None]
        key = self.addressing.emit(address, self.word_size)["key"]
        unused = least_used(state.usage, self.num_read_heads)
        write_weights = gate * state.read_weights + (1 - gate) * unused
        memory = state.memory * (1 - unused.sum(1)[..., None]) + write_weights.mT @ key
        read_weights = self.addressing(address, memory, state.read_weights)
        used = (read_weights + write_weights).sum(1).detach()
        return read_weights @ memory, LRUAccessState(
            memory, self.usage_decay * state.usage + used, read_weights, write_weights
        )

    def emitted(self, controller_output: Float[Tensor, "batch hidden"]) -> dict[str, Float[Tensor, "batch heads ..."]]:
        """What of strength, gate, shift and sharpening there is to reading, and the write gate."""
        address, gate = self._emit(controller_output)
        emitted = self.addressing.emit(address, self.word_size)
        return {name: value for name, value in emitted.items() if name != "key"} | {"write_gate": gate}

    def _emit(
        self, controller_output: Float[Tensor, "batch hidden"]
    ) -> tuple[Float[Tensor, "batch heads address"], Float[Tensor, "batch heads"]]:
        """What addressing takes of the interface, and write gates."""
        interface = split_heads(self.interface(controller_output), self.num_read_heads)
        address, gate = interface.tensor_split([self._address_size], dim=-1)
        return address, self.write_gate.emit(gate)


def least_used(usage: Float[Tensor, "batch slots"], num_heads: int) -> Float[Tensor, "batch {num_heads} slots"]:
    """One-hot: the slot of least usage for the first head, the next for the second; among equals the first slot."""
    slots = usage.argsort(dim=-1, stable=True)[:, :num_heads, None]
    return usage.new_zeros(*slots.shape[:2], usage.shape[1]).scatter(2, slots, 1.0)
