"""A memory that gives one vector per entry."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.memory.block import Block
from memnets.retrieval.encoder import Encoded, Encoder
from memnets.retrieval.text_memory import TextMemory


class VectorMemory(TextMemory):
    """Entries as their texts' vectors: a Block has one item per selected entry, best first as they were selected."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, {})

    def _settings(self) -> dict[str, Any]:
        return {}

    def _keep(self, encoded: Encoded) -> dict[str, Tensor]:
        return {}

    def _block(
        self,
        rows: Int[Tensor, "queries k"],
        scores: Float[Tensor, "queries k"],
        mask: Bool[Tensor, "queries k"],
        values: Int[Tensor, "queries k"] | None,
    ) -> Block:
        vectors = self.vectors[rows].masked_fill(~mask[..., None], 0)
        return Block(vectors, mask, scores, rows, None, values)
