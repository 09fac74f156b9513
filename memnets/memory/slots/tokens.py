"""Memory tokens: learned tokens beside the sequence (MemTransformer, Burtsev et al. 2020, arXiv:2006.11527)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.memory.slots.base import Sizes, TokenMemory


class MemoryTokens(TokenMemory):
    """`num_tokens` learned vectors that pass through every layer and that every position can attend to.

    They attend to one another only: seeing the sequence, they would carry later positions to earlier ones. So in this
    causal decoder they hold what is true of all sequences, and nothing is written.

    Raises:
        ValueError: num_tokens is below 1.
    """

    def __init__(self, sizes: Sizes, num_tokens: int = 16) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"MemoryTokens.num_tokens must be at least 1, not {num_tokens}")
        self.tokens = nn.Parameter(torch.randn(num_tokens, sizes.d_model))

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: what is remembered is learned."""
        return ()

    def read(self, state: Any) -> Float[Tensor, "#batch tokens d_model"]:
        """Return the learned tokens, the same for every row."""
        return self.tokens[None]
