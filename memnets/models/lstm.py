"""The baseline without a memory: a stacked LSTM (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.models.base import InputLayer, SequenceModel, check_spec


class LSTMState(NamedTuple):
    """Hidden and cell vectors of every layer."""

    hidden: Float[Tensor, "batch layers hidden"]
    cell: Float[Tensor, "batch layers hidden"]


class LSTM(SequenceModel):
    """Stacked LSTM with a linear output. The NTM paper's baselines have 3 layers (its table 3)."""

    def __init__(self, spec: Spec, hidden_size: int = 256, num_layers: int = 3, embedding_size: int = 64) -> None:
        super().__init__()
        check_spec(LSTM, spec)
        self.input = InputLayer(spec, embedding_size)
        self.lstm = nn.LSTM(self.input.output_size, hidden_size, num_layers, batch_first=True)
        self.output = nn.Linear(hidden_size, spec.output_size)

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros."""
        zeros = self.output.weight.new_zeros(batch_size, self.lstm.num_layers, self.lstm.hidden_size)
        return LSTMState(zeros, zeros)

    def forward(
        self, inputs: Shaped[Tensor, "batch time *width"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], LSTMState]:
        """Logits at every step, and the state after the last."""
        state = self.initial_state(inputs.shape[0]) if state is None else state
        layers_first = tuple(rearrange(part, "b l h -> l b h").contiguous() for part in state)
        seen = self.input(inputs).to(self.output.weight.dtype)
        with torch.autocast("cpu", enabled=False):  # not every CPU has a bfloat16 LSTM
            hidden, after = self.lstm(seen, layers_first)
        return self.output(hidden), LSTMState(*(rearrange(part, "l b h -> b l h") for part in after))


def set_forget_bias(bias: Tensor, value: float = 1.0) -> None:
    """Add `value` to an LSTM's forget-gate bias, so that it remembers before it has learned to."""
    hidden_size = bias.shape[0] // 4
    with torch.no_grad():
        bias[hidden_size : 2 * hidden_size] += value
