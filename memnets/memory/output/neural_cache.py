"""The continuous cache: the text's own last words (Grave, Joulin, Usunier 2016, arXiv:1612.04426)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.memory.output.base import OutputMemory, Recalled


class NeuralCacheState(NamedTuple):
    """The last steps' hidden vectors and the words that followed, oldest first; `written` counts all there were."""

    keys: Float[Tensor, "batch size hidden"]
    words: Int[Tensor, "batch size"]
    written: Int[Tensor, " batch"]


class NeuralCache(OutputMemory):
    """The last `size` steps of the text; an entry scores h_t·h_i (equation 3, where `strength` is called theta).

    An entry that isn't finite spoils the row's probabilities until it is forgotten: a model that overflows must not be
    measured.

    Args:
        hidden_size: width of what the model's head reads.
        size: steps remembered.

    Raises:
        ValueError: size is below 1.
    """

    def __init__(self, hidden_size: int, size: int = 2000) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"NeuralCache.size must be at least 1, not {size}")
        self.size = size
        self.register_buffer("empty", torch.zeros(size, hidden_size), False)

    def initial_state(self, batch_size: int) -> NeuralCacheState:
        """Nothing read."""
        keys = self.get_buffer("empty").expand(batch_size, -1, -1)
        words = torch.zeros(batch_size, self.size, dtype=torch.long, device=keys.device)
        return NeuralCacheState(keys, words, words[:, 0].clone())

    def read(self, hidden: Float[Tensor, "batch time hidden"], state: NeuralCacheState) -> Recalled:
        """All that is remembered, at every step."""
        held = torch.arange(self.size, device=hidden.device) >= self.size - state.written[:, None]
        return _recalled(hidden, state.keys, state.words, held[:, None])

    def write(
        self, state: NeuralCacheState, hidden: Float[Tensor, "batch time hidden"], words: Int[Tensor, "batch time"]
    ) -> NeuralCacheState:
        """Forget the oldest steps for these."""
        return NeuralCacheState(
            torch.cat([state.keys, hidden], dim=1)[:, -self.size :],
            torch.cat([state.words, words], dim=1)[:, -self.size :],
            state.written + hidden.shape[1],
        )

    def forward(
        self, hidden: Float[Tensor, "batch time hidden"], words: Int[Tensor, "batch time"], state: NeuralCacheState
    ) -> tuple[Recalled, NeuralCacheState]:
        """Read and write all steps at once: step i sees the `size` entries that end with step i - 1."""
        entry = torch.arange(self.size + hidden.shape[1], device=hidden.device)
        step = torch.arange(hidden.shape[1], device=hidden.device)[:, None]
        held = entry >= self.size - state.written[:, None]
        visible = ((entry >= step) & (entry < step + self.size)) & held[:, None]
        keys, following = torch.cat([state.keys, hidden], dim=1), torch.cat([state.words, words], dim=1)
        return _recalled(hidden, keys, following, visible), self.write(state, hidden, words)


def _recalled(hidden: Tensor, keys: Tensor, words: Tensor, visible: Bool[Tensor, " batch #time entries"]) -> Recalled:
    scores = hidden @ keys.transpose(1, 2)
    return Recalled(scores.masked_fill(~visible, -torch.inf), words[:, None])
