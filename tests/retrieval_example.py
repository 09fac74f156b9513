"""Small external memories for tests, and what they must do, told by a dict and by loops."""

from __future__ import annotations

import math
from collections import Counter

import torch

from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry, Triple
from memnets.retrieval.graph_memory import GraphMemory
from memnets.retrieval.selection import Selected
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.retrieval.vector_memory import VectorMemory
from memnets.retrieval.words import words

SIZE, MAX_TOKENS = 8, 3
ENCODER = HashedEncoder(SIZE)
KINDS = {
    "vector": lambda encoder=ENCODER: VectorMemory(encoder),
    "sequence": lambda encoder=ENCODER: SequenceMemory(encoder, MAX_TOKENS),
    "graph": lambda encoder=ENCODER: GraphMemory(encoder),
}
PEOPLE = [
    Entry("ada", "ada lives in london", 2),
    Entry("bob", "bob plays the flute, the flute!", 0),
    Entry("eve", "eve eats figs", -1),
    Entry("ivy", "ivy lives in the park in london", 1),
    Entry("max", "max has a goat", 3),
]


def as_kind(kind, entry):
    """An entry as the kind of memory takes it: of a text of three words or more, a graph has an edge between two."""
    return Triple(entry.id, *entry.text.split(" ", 2)) if kind == "graph" else entry


def entry_of(kind, id, text, value=-1):
    return as_kind(kind, Entry(id, text, value))


def memory_of(kind="vector", entries=PEOPLE):
    memory = KINDS[kind]()
    memory.write([as_kind(kind, entry) for entry in entries])
    return memory


def value_of(memory, entry):
    """The class that an entry stands for: in a graph the number of the edge's target."""
    return memory.entity(entry.target) if isinstance(entry, Triple) else entry.value


def queries_of(*texts, **others):
    return Queries(texts, ENCODER.encode(texts).vectors, **others)


def one_row(row):
    return Selected(torch.tensor([[row]]), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))


def contents(memory):
    """What a memory says it holds."""
    held = [memory.entry(row) for row in range(memory.num_rows)]
    assert [entry is not None for entry in held] == memory.occupied.tolist()
    assert all(memory.row(entry.id) == row for row, entry in enumerate(held) if entry is not None)
    return {entry.id: entry for entry in held if entry is not None}


def say(memory, id):
    """The items of an entry, as a read gives them."""
    block = memory.read(one_row(memory.row(id)))
    return [part[0] for part in block if part is not None]


def okapi_by_loop(texts, query, k1=1.2, b=0.75, epsilon=None):
    """BM25 by loops: Lucene's idf, or with an epsilon the package rank-bm25's, where its mean is positive."""
    bags = [Counter(words(text)) for text in texts]
    mean_length = sum(sum(bag.values()) for bag in bags) / len(bags)
    vocabulary = sorted({word for bag in bags for word in bag})
    holders = {word: sum(word in bag for bag in bags) for word in vocabulary}
    odds = {word: (len(bags) - n + 0.5) / (n + 0.5) for word, n in holders.items()}
    mean = sum(map(math.log, odds.values())) / len(odds)
    scores = []
    for bag in bags:
        score = 0.0
        for word in words(query):
            if bag[word]:
                idf = math.log(odds[word])
                idf = math.log(1 + odds[word]) if epsilon is None or mean < 1e-9 else epsilon * mean if idf < 0 else idf
                length = 1 - b + b * sum(bag.values()) / mean_length
                score += idf * bag[word] * (k1 + 1) / (bag[word] + k1 * length)
        scores.append(score)
    return scores


def tf_idf_by_loop(texts, query):
    """lnc.ltc of Manning et al., with idf ln(1 + N / n)."""
    bags = [Counter(words(text)) for text in texts]
    holders = Counter(word for bag in bags for word in bag)
    asked = {
        word: (1 + math.log(count)) * math.log(1 + len(bags) / holders[word])
        for word, count in Counter(words(query)).items()
        if word in holders
    }
    scores = []
    for bag in bags:
        row = {word: 1 + math.log(count) for word, count in bag.items()}
        dot = sum(weight * row.get(word, 0.0) for word, weight in asked.items())
        lengths = math.hypot(*asked.values()) * math.hypot(*row.values())
        scores.append(dot / lengths if dot else 0.0)
    return scores
