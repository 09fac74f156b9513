"""A memory that gives one vector per entry."""

from __future__ import annotations

from typing import Any

from memnets.retrieval.encoder import Encoder
from memnets.retrieval.text_memory import TextMemory


class VectorMemory(TextMemory):
    """Entries as their texts' vectors: a Block has one item per selected entry, best first as they were selected."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, {})

    def _settings(self) -> dict[str, Any]:
        return {}
