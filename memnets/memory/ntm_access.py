"""An NTM's heads on its memory: the controller's output becomes reads and writes (NTM paper, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from memnets.memory.access import Access, check_sizes, make_interface
from memnets.memory.addressing import Addressing, split_heads
from memnets.ops.erase_add import read_and_write

START_LOGIT = 5.0
"""First weights concentrate on slot 0: softmax of a logit of 5 there, 0 elsewhere (54 % at 128 slots)."""


class NTMAccessState(NamedTuple):
    """A memory and where its heads are."""

    memory: Float[Tensor, "batch slots word"]
    read_weights: Float[Tensor, "batch read_heads slots"]
    write_weights: Float[Tensor, "batch write_heads slots"]


class NTMAccess(Access):
    """Read and write heads of one memory.

    All heads address the memory as it is before the step; reads see it before this step's writes.

    Args:
        controller_size: width of the controller's output.
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: at least 1.
        num_write_heads: at least 1.
        addressing: how every head finds its slots.
        initial_memory: maps a batch size to the first content.
    """

    def __init__(
        self,
        controller_size: int,
        memory_size: int,
        word_size: int,
        num_read_heads: int,
        num_write_heads: int,
        addressing: Addressing,
        initial_memory: nn.Module,
    ) -> None:
        super().__init__(word_size, num_read_heads)
        check_sizes(
            memory_size=memory_size, word_size=word_size, num_read_heads=num_read_heads, num_write_heads=num_write_heads
        )
        self.num_write_heads = num_write_heads
        self.num_heads = num_read_heads + num_write_heads
        self.addressing = addressing
        self.initial_memory = initial_memory
        self._address_size = self.num_heads * addressing.interface_size(word_size)
        self.interface = make_interface(controller_size, self._address_size + 2 * num_write_heads * word_size)
        with torch.no_grad():
            self.interface.bias[: self._address_size] = addressing.first_bias(word_size).repeat(self.num_heads)
        logits = torch.zeros(self.num_heads, memory_size)
        logits[:, 0] = START_LOGIT
        if addressing.uses_previous_weights:
            self.start_logits = nn.Parameter(logits)
        else:
            self.register_buffer("start_logits", logits, persistent=False)

    def initial_state(self, batch_size: int) -> NTMAccessState:
        """Initial memory, and weights from a softmax of the start logits."""
        weights = torch.softmax(self.start_logits, dim=-1).expand(batch_size, -1, -1)
        return NTMAccessState(self.initial_memory(batch_size), *self._by_kind(weights))

    def forward(
        self, controller_output: Float[Tensor, "batch hidden"], state: NTMAccessState
    ) -> tuple[Float[Tensor, "batch read_heads word"], NTMAccessState]:
        """Read vectors, and the state after this step's writes."""
        interface = self.interface(controller_output)
        address = split_heads(interface[:, : self._address_size], self.num_heads)
        erase, add = rearrange(
            interface[:, self._address_size :], "b (two h w) -> two b h w", two=2, h=self.num_write_heads
        )
        previous = torch.cat([state.read_weights, state.write_weights], dim=1)
        weights = self.addressing(address, state.memory, previous)
        read_weights, write_weights = self._by_kind(weights)
        read_vectors, memory = read_and_write(
            state.memory, read_weights, write_weights, torch.sigmoid(erase), torch.tanh(add)
        )
        return read_vectors, NTMAccessState(memory, read_weights, write_weights)

    def emitted(self, controller_output: Float[Tensor, "batch hidden"]) -> dict[str, Float[Tensor, "batch heads ..."]]:
        """Strength, gate, shift and sharpening of all heads, those of them that there are, read heads first."""
        address = split_heads(self.interface(controller_output)[:, : self._address_size], self.num_heads)
        emitted = self.addressing.emit(address, self.word_size)
        return {name: value for name, value in emitted.items() if name != "key"}

    def _by_kind(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        read_weights, write_weights = weights.split([self.num_read_heads, self.num_write_heads], dim=1)
        return read_weights, write_weights
