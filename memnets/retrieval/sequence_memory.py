"""A memory that gives the states of every entry's tokens."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from memnets.memory.block import Block
from memnets.retrieval.encoder import Encoded, Encoder
from memnets.retrieval.text_memory import TextMemory


class SequenceMemory(TextMemory):
    """Entries as their tokens' states: a Block has `max_tokens` items per selected entry, so answers can be copied.

    An entry's vector, by which it is found, is that of its whole text; tokens beyond `max_tokens` can't be read.
    Takes `max_tokens` states of room for each entry, however short.

    Raises:
        ValueError: max_tokens is not positive.
    """

    def __init__(self, encoder: Encoder, max_tokens: int = 32) -> None:
        if max_tokens < 1:
            raise ValueError(f"SequenceMemory.max_tokens must be positive, not {max_tokens}")
        self.max_tokens = max_tokens
        none = torch.empty(0, max_tokens, encoder.size)
        super().__init__(encoder, {"states": none, "tokens": none[..., 0].long()})

    def _settings(self) -> dict[str, Any]:
        return {"max_tokens": self.max_tokens}

    def _keep(self, encoded: Encoded) -> dict[str, Tensor]:
        """States and tokens cut or padded to `max_tokens`; where there is no token, both are zero."""
        missing = self.max_tokens - encoded.tokens.shape[1]  # negative: `pad` then cuts off
        states = encoded.states.masked_fill(~encoded.mask[..., None], 0)
        tokens = encoded.tokens.masked_fill(~encoded.mask, 0)
        return {"states": pad(states, (0, 0, 0, missing)), "tokens": pad(tokens, (0, missing))}

    def _block(
        self,
        rows: Int[Tensor, "queries k"],
        scores: Float[Tensor, "queries k"],
        mask: Bool[Tensor, "queries k"],
        values: Int[Tensor, "queries k"] | None,
    ) -> Block:
        states = self._columns["states"][rows].masked_fill(~mask[..., None, None], 0)
        tokens = self._columns["tokens"][rows].masked_fill(~mask[..., None], 0)
        real = rearrange(tokens > 0, "q k t -> q (k t)")
        scores, rows = self._per_token(scores), self._per_token(rows)
        values = None if values is None else self._per_token(values).masked_fill(~real, -1)
        return Block(
            rearrange(states, "q k t d -> q (k t) d"),
            real,
            scores.masked_fill(~real, 0),
            rows,
            rearrange(tokens, "q k t -> q (k t)"),
            values,
        )

    def _per_token(self, entries: Tensor) -> Tensor:
        return repeat(entries, "q k -> q (k t)", t=self.max_tokens)
