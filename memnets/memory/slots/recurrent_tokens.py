"""Recurrent memory tokens: a segment's summary is read by the next (RMT, Bulatov et al. 2022, arXiv:2207.06881)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.memory.slots.base import Sizes, TokenMemory


class RecurrentTokensState(NamedTuple):
    """The tokens that the next segment reads."""

    tokens: Float[Tensor, "batch tokens d_model"]


class RecurrentTokens(TokenMemory):
    """`num_tokens` vectors that every position of a segment reads, and that are written anew at the segment's end.

    Writing, the same vectors pass through the layers once more, now seeing the segment too; what leaves the last layer,
    normed, is what the next segment reads. A segment is `segment_length` positions of a row, counted from its start.

    Gradients run through all segments that one call of the model sees; `trainer.bptt_length` cuts them after so many
    steps. Beside the tokens a position still has the layer's sliding window, which the paper ends with the segment.
    What is not finite in a segment is handed on, in its row, until `reset`.

    Args:
        sizes: of the layers.
        num_tokens: vectors.
        segment_length: positions of a segment, at most `window`; None: as many.

    Raises:
        ValueError: num_tokens is below 1, or a segment doesn't fit into the window.
    """

    def __init__(self, sizes: Sizes, num_tokens: int = 16, segment_length: int | None = None) -> None:
        super().__init__()
        length = sizes.window if segment_length is None else segment_length
        if num_tokens < 1 or not 1 <= length <= sizes.window:
            raise ValueError(
                f"RecurrentTokens needs num_tokens >= 1 and 1 <= segment_length <= window, "
                f"not {num_tokens}, {length} and {sizes.window}: written tokens see a segment through the window"
            )
        self.segment_length = length
        self.tokens = nn.Parameter(torch.randn(num_tokens, sizes.d_model))
        self.norm = nn.LayerNorm(sizes.d_model)

    def initial_state(self, batch_size: int) -> RecurrentTokensState:
        """Return the learned tokens that a row begins with."""
        return RecurrentTokensState(self.tokens.expand(batch_size, -1, -1))

    def read(self, state: RecurrentTokensState) -> Float[Tensor, "batch tokens d_model"]:
        """Return what was written last."""
        return state.tokens

    def write(self, state: RecurrentTokensState, tokens: Float[Tensor, "batch tokens d_model"]) -> RecurrentTokensState:
        """Return the tokens as they left the last layer, normed."""
        return RecurrentTokensState(self.norm(tokens))
