"""How fast memories are searched and changed: dense search beside FAISS's, BM25, and a write until it is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from memnets.analysis.retrieval_speeds import SpeedRecord
from memnets.benchmark.timing import threads
from memnets.retrieval.base import Queries, Relevance
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.lexical import BM25
from memnets.retrieval.relevance import Dense
from memnets.retrieval.selection import TopK
from memnets.retrieval.vector_memory import VectorMemory

WORD, TOP_K, VOCABULARY, LENGTH = 384, 10, 20_000, 12
"""Widths of vectors, rows that are selected, different words, and words of a text."""
DENSE_ENTRIES, WORD_ENTRIES = 100_000, 70_000

Calls = Callable[[int], None]


def measure_speeds(calls: int, num_threads: int, made_by: Mapping[str, Any]) -> Iterator[SpeedRecord]:
    """Yield a record for each kind of call, as they are made: so many calls of each, after two that don't count."""
    with threads(num_threads), torch.no_grad():
        encoder = HashedEncoder(WORD)
        memory = memory_of(DENSE_ENTRIES, encoder)
        for at_once in (1, 32):
            yield _record(f"dense {at_once}", memory, calls, num_threads, made_by, *dense_calls(memory, at_once))
        kinds: dict[str, Relevance] = {"dense": Dense(), "bm25": BM25()}
        for name, relevance in kinds.items():
            write = write_calls(memory, relevance)
            yield _record(f"write, {name}", memory, 10 * calls, num_threads, made_by, write)
        memory = memory_of(WORD_ENTRIES, encoder)
        yield _record("bm25 1", memory, calls, num_threads, made_by, word_calls(memory))


def memory_of(entries: int, encoder: HashedEncoder) -> VectorMemory:
    """Return a memory of texts of random words, of which some are frequent, as in any language."""
    memory = VectorMemory(encoder)
    memory.write([Entry(str(number), text) for number, text in enumerate(texts(entries))])
    return memory


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of words whose frequency falls with their number (Zipf's law)."""
    shares = 1 / np.arange(1, VOCABULARY + 1)
    drawn = np.random.default_rng(seed).choice(VOCABULARY, (count, LENGTH), p=shares / shares.sum())
    return [" ".join(f"w{word}" for word in row) for row in drawn.tolist()]


def dense_calls(memory: VectorMemory, at_once: int) -> tuple[Calls, Calls]:
    """Return searches for the best rows of some queries: ours, and those of FAISS's flat index."""
    import faiss

    asked = [memory.encoder.encode(texts(at_once, seed)).vectors for seed in range(1, 9)]
    names = ["x"] * at_once
    index = faiss.IndexFlatIP(WORD)
    index.add(memory.vectors.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())

    def ours(call: int) -> None:
        TopK(TOP_K).select(Dense().scores(memory, Queries(names, asked[call % len(asked)])))

    def theirs(call: int) -> None:
        index.search(asked[call % len(asked)].numpy(), TOP_K)

    return ours, theirs


def word_calls(memory: VectorMemory) -> Calls:
    """Return searches by words for one query."""
    relevance, asked = BM25(), [" ".join(text.split()[:6]) for text in texts(64, seed=1)]
    return lambda call: _search(relevance, memory, Queries([asked[call % len(asked)]]))


def write_calls(memory: VectorMemory, relevance: Relevance) -> Calls:
    """Return calls that replace an entry, or in turn write a new one, and ask for it."""
    new = texts(64, seed=2)
    vectors = memory.encoder.encode(new).vectors
    kept = len(memory)

    def write(call: int) -> None:
        at = call % len(new)
        if call % 2:
            memory.replace([Entry(str(call % kept), new[at])])
        else:
            memory.write([Entry(f"new {len(memory)}", new[at])])
        _search(relevance, memory, Queries([new[at]], vectors[at : at + 1]))

    return write


def _search(relevance: Relevance, memory: VectorMemory, queries: Queries) -> None:
    TopK(TOP_K).select(relevance.scores(memory, queries))


def _record(
    what: str,
    memory: VectorMemory,
    calls: int,
    num_threads: int,
    made_by: Mapping[str, Any],
    ours: Calls,
    theirs: Calls | None = None,
) -> SpeedRecord:
    entries = len(memory)
    for call in range(2):
        ours(call)
    own, beside = [], []
    for call in range(2, calls + 2):
        own.append(_milliseconds(ours, call))
        if theirs:
            beside.append(_milliseconds(theirs, call))
    median, other = float(np.median(own)), float(np.median(beside)) if beside else None
    return SpeedRecord(
        what=what,
        entries=entries,
        calls=calls,
        median_ms=median,
        p99_ms=float(np.quantile(own, 0.99)),
        most_ms=max(own),
        beside_ms=other,
        ratio=None if other is None else median / other,
        threads=num_threads,
        **made_by,
    )


def _milliseconds(run: Calls, call: int) -> float:
    started = time.perf_counter()
    run(call)
    return 1e3 * (time.perf_counter() - started)
