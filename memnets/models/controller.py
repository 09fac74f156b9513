"""Controllers: the recurrent or feed-forward network that drives a memory's heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.models.lstm import set_forget_bias


class Controller(nn.Module, ABC):
    """What an NTM asks of its controller: `output, state = controller(inputs, state)`, one step at a time."""

    output_size: int

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step."""


class LSTMControllerState(NamedTuple):
    """Hidden and cell vectors."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class LSTMController(Controller):
    """One LSTM cell with forget bias 1 and a learned initial state."""

    def __init__(self, input_size: int, hidden_size: int = 100) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.cell = nn.LSTMCell(input_size, hidden_size)
        set_forget_bias(self.cell.bias_ih)
        self.initial_hidden = nn.Parameter(torch.zeros(hidden_size))
        self.initial_cell = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch_size: int) -> LSTMControllerState:
        """Return the learned state, the same for every sequence."""
        return LSTMControllerState(*(v.expand(batch_size, -1) for v in (self.initial_hidden, self.initial_cell)))

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: LSTMControllerState
    ) -> tuple[Float[Tensor, "batch hidden"], LSTMControllerState]:
        """One step."""
        state = LSTMControllerState(*self.cell(inputs, state))
        return state.hidden, state


class FeedForwardController(Controller):
    """One tanh layer: remembers nothing but what it reads."""

    def __init__(self, input_size: int, hidden_size: int = 100) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.layer = nn.Linear(input_size, hidden_size)
        nn.init.xavier_uniform_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing."""
        return ()

    def forward(self, inputs: Float[Tensor, "batch input"], state: Any) -> tuple[Float[Tensor, "batch hidden"], Any]:
        """One step."""
        return torch.tanh(self.layer(inputs)), state
