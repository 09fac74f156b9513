"""How well a relevance finds the paragraph of SQuAD that a question was asked about: for `scripts/retrieval.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from memnets.analysis.retrievals import RetrievalRecord
from memnets.intervals import bootstrap_interval
from memnets.retrieval.base import ExternalMemory, Queries, Relevance
from memnets.retrieval.best_sentence import BestSentence
from memnets.retrieval.encoder import Encoder
from memnets.retrieval.lexical import BM25, TfIdf
from memnets.retrieval.ranking import gold_ranks, ndcg_at, recall_at, reciprocal_rank
from memnets.retrieval.relevance import Dense, Hybrid, Oracle, Random
from memnets.retrieval.vector_memory import VectorMemory
from memnets.retrieval.words import EnglishWords
from memnets.tasks.squad_files import Squad
from memnets.tasks.squad_relevance import paragraph_memory

AT_ONCE = 256
"""Queries scored together."""

NUM_SAMPLES = 2000
"""Samples of the recorded intervals."""

BY_WORDS = ("bm25", "bm25_plain", "bm25_okapi", "tfidf", "random", "oracle")
"""Relevances that look at no vectors."""


def relevances() -> dict[str, Relevance]:
    """Return those that are compared, by name."""
    return {
        "bm25": BM25(analyzer=EnglishWords()),
        "bm25_plain": BM25(),
        "bm25_okapi": BM25(k1=1.5, epsilon=0.25),
        "tfidf": TfIdf(EnglishWords()),
        "dense": Dense(),
        "hybrid": Hybrid(BM25(analyzer=EnglishWords()), Dense()),
        "best_sentence": BestSentence(),
        "hybrid_sentence": Hybrid(BM25(analyzer=EnglishWords()), BestSentence()),
        "random": Random(),
        "oracle": Oracle(),
    }


def paragraphs_of(squad: Squad, encoder: Encoder) -> VectorMemory:
    """Return a memory of all paragraphs; an entry's id is the paragraph's number."""
    return paragraph_memory(squad.paragraphs, encoder)  # type: ignore[arg-type]  # equal to itself alone: hashable


def queries_of(squad: Squad, encoder: Encoder | None) -> Queries:
    """Return all questions, each with its paragraph as gold, encoded where there is an encoder."""
    texts = [question.text for question in squad.questions]
    parts = [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
    vectors = torch.cat([encoder.encode(part).vectors for part in parts]) if encoder else None
    return Queries(texts, vectors, [[str(question.paragraph)] for question in squad.questions])


def measure_retrieval(
    name: str, memory: ExternalMemory, queries: Queries, corpus: str, encoder_name: str, made_by: Mapping[str, Any]
) -> RetrievalRecord:
    """Score all passages for all queries, in batches.

    Raises:
        EmptyMemoryError: the memory holds nothing.
        ValueError: a query has no word, or a passage that answers a query isn't in the memory.
    """
    relevance, ranks, seconds = relevances()[name], [], 0.0
    assert queries.gold is not None
    for part in _parts(queries):
        started = time.perf_counter()
        scores = relevance.scores(memory, part)
        seconds += time.perf_counter() - started
        ranks += gold_ranks(scores, _gold(memory, part))
    first, five, reciprocal = recall_at(ranks, 1), recall_at(ranks, 5), reciprocal_rank(ranks)
    (low_1, high_1), (low_5, high_5), (low, high) = (
        bootstrap_interval(values, num_samples=NUM_SAMPLES) for values in (first, five, reciprocal)
    )
    return RetrievalRecord(
        corpus=corpus,
        relevance=name,
        encoder="" if name in BY_WORDS else encoder_name,
        entries=len(memory),
        queries=len(ranks),
        recall_1=float(first.mean()),
        recall_1_low=low_1,
        recall_1_high=high_1,
        recall_5=float(five.mean()),
        recall_5_low=low_5,
        recall_5_high=high_5,
        recall_20=float(recall_at(ranks, 20).mean()),
        mrr=float(reciprocal.mean()),
        mrr_low=low,
        mrr_high=high,
        ndcg_10=float(ndcg_at(ranks, [len(own) for own in queries.gold], 10).mean()),
        ms_per_query=1e3 * seconds / len(ranks),
        threads=torch.get_num_threads(),
        **made_by,
    )


def _parts(queries: Queries) -> Iterator[Queries]:
    for start in range(0, len(queries.texts), AT_ONCE):
        own = slice(start, start + AT_ONCE)
        vectors = None if queries.vectors is None else queries.vectors[own]
        yield Queries(queries.texts[own], vectors, queries.gold and queries.gold[own])


def _gold(memory: ExternalMemory, queries: Queries) -> Tensor:
    gold = torch.zeros(len(queries.texts), memory.num_rows, dtype=torch.bool)
    for number, ids in enumerate(queries.gold or ()):
        gold[number, [row for row in map(memory.row, ids) if row is not None]] = True
    return gold
