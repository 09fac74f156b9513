"""Dense relevance for memories of millions of entries: by an inverted file that compares a query with few of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.retrieval.base import ExternalMemory, Queries, hide_unreadable, refuse_empty
from memnets.retrieval.relevance import Dense, refuse_other_vectors

try:
    import faiss
except ImportError as error:
    raise ImportError("approximate search needs FAISS: install memnets[faiss]") from error

GROWTH = 2
"""Cells are made anew once so many times the entries are there that they were made for."""


class ApproximateDense:
    """As `Dense`, but only the `num_candidates` best rows of a query have a score; all others have -inf.

    Rows are sorted into cells (FAISS's `IndexIVFFlat`, Johnson et al. 2017, arXiv:1702.08734), 4 √rows of them, and a
    query is compared with those in the `num_probes` cells nearest to it. What it finds has its exact cosine; what lies
    in other cells is missed. A row that changes moves to its new cell before the next query.

    Args:
        num_candidates: rows that a query finds; a selection can't choose more.
        num_probes: cells that it looks into: more find more, and take longer.
        exact_below: memories of fewer entries are searched exactly, as `Dense` does.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, num_candidates: int = 100, num_probes: int = 32, exact_below: int = 20_000) -> None:
        if min(num_candidates, num_probes, exact_below) < 1:
            raise ValueError(
                f"ApproximateDense needs positive num_candidates, num_probes and exact_below, not {num_candidates}, "
                f"{num_probes} and {exact_below}"
            )
        self.num_candidates, self.num_probes, self.exact_below = num_candidates, num_probes, exact_below
        self._memory: ExternalMemory | None = None
        self._version, self._made_for = -1, 0
        self._index: Any = None

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score the rows that are found.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries have no vectors, or vectors of another number or width, or not finite.
        """
        refuse_empty(memory)
        vectors = refuse_other_vectors(memory, queries)
        if len(memory) < self.exact_below:
            return Dense().scores(memory, queries)
        self._follow(memory)
        excluded = max((len(ids) for ids in queries.exclude or ()), default=0)
        faiss.omp_set_num_threads(torch.get_num_threads())
        cosines, rows = map(torch.from_numpy, self._index.search(vectors.numpy(), self.num_candidates + excluded))
        scores = torch.full((len(vectors), memory.num_rows + 1), -math.inf)
        scores.scatter_(1, rows.where(rows >= 0, memory.num_rows), cosines)  # what isn't found goes to a last column
        return hide_unreadable(scores[:, :-1], memory, queries)

    def _follow(self, memory: ExternalMemory) -> None:
        """Take over what has changed in the memory."""
        changes = memory.changes_since(self._version) if memory is self._memory else None
        self._memory = None  # an interrupted update starts over
        if changes is None or len(memory) > GROWTH * self._made_for:
            self._make(memory)
        elif changes:
            texts = dict(changes)
            self._index.remove_ids(torch.tensor(list(texts)).numpy())
            self._add(memory, torch.tensor([row for row, text in texts.items() if text is not None], dtype=torch.long))
        self._memory, self._version = memory, memory.version

    def _make(self, memory: ExternalMemory) -> None:
        """Choose cells, and sort all rows into them."""
        rows = memory.occupied.nonzero()[:, 0]
        num_cells = max(min(int(4 * math.sqrt(len(rows))), len(rows) // 40), 1)
        inner_product = faiss.METRIC_INNER_PRODUCT
        self._index = faiss.index_factory(memory.encoder.size, f"IVF{num_cells},Flat", inner_product)
        self._index.nprobe, self._made_for = self.num_probes, len(rows)
        faiss.omp_set_num_threads(torch.get_num_threads())
        self._index.train(memory.vectors[rows].numpy())
        self._add(memory, rows)

    def _add(self, memory: ExternalMemory, rows: Tensor) -> None:
        self._index.add_with_ids(memory.vectors[rows].numpy(), rows.numpy())
