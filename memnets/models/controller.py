"""Controllers: the recurrent or feed-forward network that drives a memory's heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.models.lstm import set_forget_bias


class Controller(nn.Module, ABC):
    """What a machine asks of its controller: `output, state = controller(inputs, state)`, one step at a time."""

    output_size: int

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step."""


class LSTMControllerState(NamedTuple):
    """Hidden and cell vectors of every layer."""

    hidden: Float[Tensor, "batch layers hidden"]
    cell: Float[Tensor, "batch layers hidden"]


class LSTMController(Controller):
    """LSTM cells, one above the other, with forget bias 1 and a learned initial state. The top one is the output."""

    def __init__(self, input_size: int, hidden_size: int = 100, num_layers: int = 1) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, not {num_layers}")
        self.output_size = hidden_size
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(nn.LSTMCell(size, hidden_size) for size in sizes)
        for layer in self.cells:
            set_forget_bias(layer.bias_ih)
        self.initial_hidden = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.initial_cell = nn.Parameter(torch.zeros(num_layers, hidden_size))

    @property
    def cells(self) -> list[nn.LSTMCell]:
        """The layers, from the inputs up."""
        return cast(list[nn.LSTMCell], list(self.layers))

    def initial_state(self, batch_size: int) -> LSTMControllerState:
        """Return the learned state, the same for every sequence."""
        return LSTMControllerState(*(v.expand(batch_size, -1, -1) for v in (self.initial_hidden, self.initial_cell)))

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: LSTMControllerState
    ) -> tuple[Float[Tensor, "batch hidden"], LSTMControllerState]:
        """One step."""
        after = []
        for layer, hidden, cell in zip(self.cells, state.hidden.unbind(1), state.cell.unbind(1), strict=True):
            after.append(layer(inputs, (hidden, cell)))
            inputs = after[-1][0]
        return inputs, LSTMControllerState(*(torch.stack(part, dim=1) for part in zip(*after, strict=True)))


class GRUControllerState(NamedTuple):
    """The hidden vector."""

    hidden: Float[Tensor, "batch hidden"]


class GRUController(Controller):
    """One GRU cell (Cho et al. 2014, arXiv:1406.1078) with a learned initial state. It runs step by step."""

    def __init__(self, input_size: int, hidden_size: int = 100) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.cell = nn.GRUCell(input_size, hidden_size)
        self.initial_hidden = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch_size: int) -> GRUControllerState:
        """Return the learned state, the same for every sequence."""
        return GRUControllerState(self.initial_hidden.expand(batch_size, -1))

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: GRUControllerState
    ) -> tuple[Float[Tensor, "batch hidden"], GRUControllerState]:
        """One step."""
        hidden = self.cell(inputs, state.hidden)
        return hidden, GRUControllerState(hidden)


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
