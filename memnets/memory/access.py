"""What a controller talks to: a memory with heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.memory.block import Block, slots_block


class Access(nn.Module, ABC):
    """`read_vectors, state = access(controller_output, state)`: one step of a memory's heads.

    `interface` is the linear layer from the controller's output to what the heads emit, before activations.

    Args:
        word_size: width of a slot.
        num_read_heads: heads that read.
    """

    interface: nn.Linear

    def __init__(self, word_size: int, num_read_heads: int) -> None:
        super().__init__()
        self.word_size, self.num_read_heads = word_size, num_read_heads

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step: a NamedTuple of tensors with batch first."""

    @abstractmethod
    def forward(
        self, controller_output: Float[Tensor, "batch hidden"], state: Any
    ) -> tuple[Float[Tensor, "batch read_heads word"], Any]:
        """Read vectors, and the state after this step's writes."""

    def block(self, state: Any) -> Block:
        """Return what the memory holds after a step, each slot with its weight in the last read, mean over heads.

        Read weights are those over the memory that the heads saw: an NTM's read before the step's writes.
        """
        return slots_block(state.memory, self.held(state), self.read_weights(state))

    def held(self, state: Any) -> Bool[Tensor, "batch slots"]:
        """Which slots hold something, as far as the mechanism knows: all, unless an access says otherwise."""
        return torch.ones_like(state.memory[..., 0], dtype=torch.bool)

    def read_weights(self, state: Any) -> Float[Tensor, "batch read_heads slots"]:
        """Weights of the last read over the slots of `state.memory`."""
        weights: Tensor = state.read_weights
        return weights

    def emitted(self, controller_output: Float[Tensor, "batch hidden"]) -> dict[str, Float[Tensor, "batch heads ..."]]:
        """What the heads emit at a step, by name, for pictures: nothing unless an access says so.

        A part of all heads has the read heads first, then the write heads.
        """
        return {}


def make_interface(controller_size: int, size: int) -> nn.Linear:
    """Return the layer that emits an interface of `size` numbers: Xavier weights, no bias to begin with."""
    interface = nn.Linear(controller_size, size)
    nn.init.xavier_uniform_(interface.weight)
    nn.init.zeros_(interface.bias)
    return interface


def check_sizes(**sizes: int) -> None:
    """Refuse a memory without slots, words or heads.

    Raises:
        ValueError: a size below 1.
    """
    if wrong := {name: size for name, size in sizes.items() if size < 1}:
        raise ValueError(", ".join(f"{name} must be at least 1, not {size}" for name, size in wrong.items()))
