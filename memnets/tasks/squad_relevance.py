"""How relevant every paragraph of SQuAD is to some of its questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from jaxtyping import Float
from torch import Tensor

from memnets.retrieval.base import Queries, Relevance
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.lexical import BM25, TfIdf
from memnets.retrieval.relevance import Oracle, Random
from memnets.retrieval.vector_memory import VectorMemory
from memnets.tasks.squad_files import Squad

WITHOUT_VECTORS = (BM25, TfIdf, Oracle, Random)
"""Relevances that look at no vectors: nothing has to be encoded for them."""

NO_VECTORS = HashedEncoder(1)


def paragraph_scores(
    squad: Squad, numbers: Sequence[int], relevance: Relevance, encoder: Encoder
) -> Float[Tensor, "questions paragraphs"]:
    """Return how relevant each paragraph is to the questions of these numbers; the gold one is known to `Oracle`."""
    encoder = NO_VECTORS if isinstance(relevance, WITHOUT_VECTORS) else encoder
    questions = [squad.questions[number] for number in numbers]
    texts, gold = [each.text for each in questions], [[str(each.paragraph)] for each in questions]
    memory = paragraph_memory(squad.paragraphs, encoder)  # type: ignore[arg-type]  # equal to itself alone: hashable
    return relevance.scores(memory, Queries(texts, encoder.encode(texts).vectors, gold))


@lru_cache(maxsize=2)
def paragraph_memory(paragraphs: tuple[str, ...], encoder: Encoder) -> VectorMemory:
    """Return a memory whose row i holds paragraph i; its id is the number. Made once: not to be changed."""
    memory = VectorMemory(encoder)
    memory.write([Entry(str(number), text) for number, text in enumerate(paragraphs)])
    return memory


def article_memory(squad: Squad, encoder: Encoder) -> VectorMemory:
    """Return a memory of all paragraphs, for people: the third one of an article is `Title_of_it/3`."""
    memory, numbers = VectorMemory(encoder), Counter[str]()
    entries = []
    for title, text in zip(squad.titles, squad.paragraphs, strict=True):
        numbers[title] += 1
        entries.append(Entry(f"{title}/{numbers[title]}", text))
    memory.write(entries)
    return memory
