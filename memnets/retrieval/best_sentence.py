"""Relevance of a long text by its one most relevant sentence."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memnets.retrieval.base import ExternalMemory, Queries, hide_unreadable, refuse_empty
from memnets.retrieval.relevance import dots, refuse_other_vectors
from memnets.retrieval.words import sentence_places


class BestSentence:
    """The greatest cosine of the query with any sentence of the row's text.

    One vector of a long text says what it is about, and little of what each sentence tells. Sentences are encoded by
    the memory's encoder when they are first scored after a change; those of replaced and erased entries go at once.
    """

    def __init__(self) -> None:
        self._memory: ExternalMemory | None = None
        self._version = -1
        self._vectors, self._rows = torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries have no vectors, or vectors of another number or width, or not finite.
        """
        refuse_empty(memory)
        vectors = refuse_other_vectors(memory, queries)
        self._follow(memory)
        cosines = dots(vectors, self._vectors)
        best = cosines.new_full((len(vectors), memory.num_rows), -math.inf)
        best.scatter_reduce_(1, self._rows.expand_as(cosines), cosines, "amax")
        return hide_unreadable(best, memory, queries)

    def _follow(self, memory: ExternalMemory) -> None:
        """Take over what has changed in the memory."""
        changes = memory.changes_since(self._version) if memory is self._memory else None
        if changes == []:
            return
        self._memory = None  # an interrupted update starts over
        if changes is None:
            entries = map(memory.entry, range(memory.num_rows))
            changes = [(row, None if entry is None else entry.text) for row, entry in enumerate(entries)]
            self._vectors, self._rows = torch.zeros(0, memory.encoder.size), torch.zeros(0, dtype=torch.long)
        texts = dict(changes)
        kept = ~torch.isin(self._rows, torch.tensor(list(texts)))
        vectors, rows = _encoded(memory, texts)
        self._vectors, self._rows = torch.cat([self._vectors[kept], vectors]), torch.cat([self._rows[kept], rows])
        self._memory, self._version = memory, memory.version


def _encoded(
    memory: ExternalMemory, texts: dict[int, str | None]
) -> tuple[Float[Tensor, "sentences word"], Int[Tensor, " sentences"]]:
    """Vectors of all sentences of some rows, and the row of each."""
    pairs = [(row, sentence) for row, text in texts.items() for sentence in _sentences(text or "")]
    rows = torch.tensor([row for row, _ in pairs], dtype=torch.long)
    return memory.encoder.encode([sentence for _, sentence in pairs]).vectors, rows


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_places(text)]
