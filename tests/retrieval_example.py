"""Small external memories for tests, and what they must do, told by a dict and by loops."""

from __future__ import annotations

import math
from collections import Counter

import torch

from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.selection import Selected
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.retrieval.vector_memory import VectorMemory
from memnets.retrieval.words import words

SIZE, MAX_TOKENS = 8, 3
ENCODER = HashedEncoder(SIZE)
KINDS = {
    "vector": lambda encoder=ENCODER: VectorMemory(encoder),
    "sequence": lambda encoder=ENCODER: SequenceMemory(encoder, MAX_TOKENS),
}
PEOPLE = [
    Entry("ada", "ada lives in london", 2),
    Entry("bob", "bob plays the flute, the flute!", 0),
    Entry("eve", "eve eats", -1),
    Entry("ivy", "ivy lives in the park in london", 1),
    Entry("max", "max has a goat", 3),
]


def memory_of(kind="vector", entries=PEOPLE):
    memory = KINDS[kind]()
    memory.write(entries)
    return memory


def queries_of(*texts, **others):
    return Queries(texts, ENCODER.encode(texts).vectors, **others)


def one_row(row):
    return Selected(torch.tensor([[row]]), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))


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
