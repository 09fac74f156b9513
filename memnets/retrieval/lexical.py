"""Relevance by the words that a query and an entry share. Memories can change: idf is taken when a query is scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memnets.retrieval.base import ExternalMemory, Queries, hide_unreadable, refuse_empty
from memnets.retrieval.word_counts import NO_WORDS, WordCounts
from memnets.retrieval.words import Analyzer, words

LEAST_MEAN = 1e-9  # what rounding makes of a mean of 0 stays below
Weigh = Callable[[np.ndarray, np.ndarray], np.ndarray]


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009, section 3.4).

    score(q, row) = Σ over the words w of q, as often as each is there, of
        idf(w) · f(w, row) · (k1 + 1) / (f(w, row) + k1 · (1 - b + b · length(row) / mean length))
    idf(w) = ln(1 + (N - n(w) + ½) / (n(w) + ½)), with f the count of w in the row, N entries, n(w) of which have w.
    The 1, which is Lucene's, keeps the idf of words in more than half of the entries above 0.

    With an `epsilon`, rankings equal those of the package rank-bm25 (`BM25Okapi`): no 1, and where idf is negative,
    `epsilon` times the mean idf of all words in its place. That is much weight for the commonest words. Where this mean
    is not positive itself, as in a memory of one or two entries, what shares no word would come first; there the 1 is.

    Args:
        k1: how soon further occurrences of a word stop counting; 1.2 as in Lucene (rank-bm25: 1.5).
        b: how much long entries are marked down, from 0 to 1.
        epsilon: idf of words in more than half of the entries, as a part of the mean (rank-bm25: 0.25); null: Lucene's.
        analyzer: makes words of texts and queries; `EnglishWords` finds more than plain words in English.

    Raises:
        ValueError: k1 or epsilon is negative, or b is not between 0 and 1.
    """

    def __init__(
        self, k1: float = 1.2, b: float = 0.75, epsilon: float | None = None, analyzer: Analyzer = words
    ) -> None:
        if k1 < 0 or (epsilon or 0) < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 needs k1 and epsilon >= 0 and b from 0 to 1, not {k1}, {epsilon} and {b}")
        self.k1, self.b, self.epsilon = k1, b, epsilon
        self._counts = WordCounts(analyzer)
        self._idf = np.zeros(0)

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row; 0 where no word is shared.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: a query has no word.
        """
        refuse_empty(memory)
        if self._counts.follow(memory):
            self._idf = self._inverse_frequencies(len(memory))
        lengths = self._counts.lengths
        penalty = self.k1 * (1 - self.b + self.b * lengths / max(lengths.sum() / len(memory), 1e-9))
        return _scores(
            memory,
            queries,
            self._counts,
            of_query=lambda counts, numbers: counts * self._idf[numbers],
            of_row=lambda counts, rows: counts * (self.k1 + 1) / (counts + penalty[rows]),
        )

    def _inverse_frequencies(self, num_entries: int) -> np.ndarray:
        """Idf of every word; of words that no row has any more, anything."""
        holders = self._counts.holders
        odds = (num_entries - holders + 0.5) / (holders + 0.5)
        idf = np.log(odds)
        mean = idf[holders > 0].mean() if holders.any() else 0.0
        if self.epsilon is None or mean <= LEAST_MEAN:
            return np.log1p(odds)
        return np.where(idf < 0, self.epsilon * mean, idf)


class TfIdf:
    """Cosine of weighted word counts, `lnc.ltc` of Manning, Raghavan and Schütze (2008, section 6.4).

    A row's weight of a word is 1 + ln(count), a query's is (1 + ln(count)) · ln(1 + N / n(w)), with N entries, n(w) of
    which have w; both are divided by their vector's length. (The book has ln(N / n(w)), which makes nothing of words
    that all entries have.) Rows carry no idf, so writing an entry changes no other's weights.

    Args:
        analyzer: makes words of texts and queries.
    """

    def __init__(self, analyzer: Analyzer = words) -> None:
        self._counts = WordCounts(analyzer)

    def scores(self, memory: ExternalMemory, queries: Queries) -> Float[Tensor, "queries rows"]:
        """Score every row, from 0 (no word is shared) to 1.

        Raises:
            EmptyMemoryError: the memory holds nothing.
            ValueError: a query has no word.
        """
        refuse_empty(memory)
        self._counts.follow(memory)

        def of_query(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            weights = (1 + np.log(counts)) * np.log1p(len(memory) / self._counts.holders[numbers])
            return weights / (np.linalg.norm(weights) or 1)

        def of_row(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return (1 + np.log(counts)) / self._counts.norms[rows]

        return _scores(memory, queries, self._counts, of_query, of_row)


def _scores(
    memory: ExternalMemory, queries: Queries, counts: WordCounts, of_query: Weigh, of_row: Weigh
) -> Float[Tensor, "queries rows"]:
    """Σ over shared words of a query's weight times a row's; these are made from (counts, word or row numbers)."""
    for number, text in enumerate(queries.texts):
        if not counts.analyzer(text):
            raise ValueError(f"query {number}, {text[:40]!r}, has no word to look for")
    asked = [counts.count(text) for text in queries.texts]
    numbers = np.unique(np.concatenate([NO_WORDS.words, *(own.words for own in asked)]))
    rows = counts.rows_with(numbers)
    rows.data = of_row(rows.data, rows.indices)
    scores = torch.zeros(len(asked), memory.num_rows)
    for own, into in zip(asked, scores.numpy(), strict=True):
        # One query at a time: scipy's product of two sparse matrices takes four times as long.
        into[:] = of_query(own.counts, own.words) @ rows[np.searchsorted(numbers, own.words)]
    return hide_unreadable(scores, memory, queries)
