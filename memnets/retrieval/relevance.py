"""Relevance by vectors, of two kinds together, and the bounds: by knowing the answer, and by chance."""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from memnets.retrieval.base import (
    ExternalMemory,
    Queries,
    Relevance,
    hide_unreadable,
    ids_per_query,
    refuse_empty,
)
from memnets.retrieval.entries import EntryError

FEW = 8
"""Up to so many queries are the columns of a matrix product: of 100,000 rows of 384, 1, 2, 4 and 8 took 0.54, 0.32,
0.51 and 0.78 of the time that they take as rows, by medians in turns on one thread of an AMD EPYC.
"""


class Dense:
    """Dot product of the query's and the row's vectors: the cosine, as both have length 1. Exact: all are compared."""

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries have no vectors, or vectors of another number or width, or not finite.
        """
        refuse_empty(memory)
        return hide_unreadable(dots(refuse_other_vectors(memory, queries), memory.vectors), memory, queries)


class Hybrid:
    """Sum of two relevances, each brought to mean 0 and standard deviation 1 over the rows that the query may read.

    One that tells no rows apart, such as BM25 where no word is shared, adds nothing.
    """

    def __init__(self, first: Relevance, second: Relevance) -> None:
        self.first, self.second = first, second

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries lack what one of the two looks at.
        """
        first, second = (_standard(kind.scores(memory, queries)) for kind in (self.first, self.second))
        return first + second


class Oracle:
    """1 for the entries that answer the query, 0 for all others: the best that finding can do."""

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: the queries have no gold.
            EntryError: the memory doesn't hold an entry that is gold.
        """
        refuse_empty(memory)
        if queries.gold is None:
            raise ValueError("Oracle needs Queries.gold: ids of the entries that answer each query")
        scores = torch.zeros(len(queries.texts), memory.num_rows)
        for number, ids in enumerate(ids_per_query(queries.gold, "gold", len(queries.texts))):
            for id in ids:
                row = memory.row(id)
                if row is None:
                    raise EntryError(f"gold of query {number}, {id!r}, is not in the memory")
                scores[number, row] = 1
        return hide_unreadable(scores, memory, queries)


class Random:
    """Uniform from 0 to 1, by the seed and the query's text: the same whatever it is asked with and whenever."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row.

        Raises:
            EmptyMemoryError: the memory holds nothing.
        """
        refuse_empty(memory)
        drawn = [self._generator(text) for text in queries.texts]
        scores = torch.zeros(len(drawn), memory.num_rows)
        for own, generator in zip(scores, drawn, strict=True):
            own.uniform_(generator=generator)
        return hide_unreadable(scores, memory, queries)

    def _generator(self, text: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {text}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)


def refuse_other_vectors(memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries word"]:
    """Return the queries' vectors, as numbers of the memory's kind, once it is clear that they can be compared.

    Raises:
        ValueError: there are none, or of another number or width, or not finite.
    """
    expected = len(queries.texts), memory.encoder.size
    if queries.vectors is None or queries.vectors.shape != expected:
        given = None if queries.vectors is None else tuple(queries.vectors.shape)
        raise ValueError(f"Queries.vectors must be of shape {expected}, from the memory's encoder, not {given}")
    vectors = queries.vectors.to(memory.vectors.dtype)
    if not vectors.isfinite().all():
        raise ValueError("Queries.vectors must be finite: the encoder that made them overflows")
    return vectors


def dots(queries: Float[Tensor, "queries word"], rows: Float[Tensor, "rows word"]) -> Float[Tensor, "queries rows"]:
    """All dot products. A few queries are faster as columns; one by itself has zeros beside it, as it is slow alone."""
    if len(queries) > FEW:
        return queries @ rows.T
    columns = pad(queries, (0, 0, 0, max(2 - len(queries), 0)))
    return (rows @ columns.T)[:, : len(queries)].T.contiguous()


def _standard(scores: Float[Tensor, "queries rows"]) -> Float[Tensor, "queries rows"]:
    """z-scores over what is finite; -inf stays."""
    finite = scores > -math.inf
    count = finite.sum(1, keepdim=True).clamp(min=1)
    mean = scores.masked_fill(~finite, 0).sum(1, keepdim=True) / count
    apart = (scores - mean).masked_fill(~finite, 0)
    deviation = (apart.square().sum(1, keepdim=True) / count).sqrt()
    level = deviation <= 1e-6 * (1 + mean.abs())
    return torch.where(level, 0, apart / deviation.masked_fill(level, 1)).masked_fill(~finite, -math.inf)
