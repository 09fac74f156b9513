"""How often each word is in each row of a memory: an inverted index that follows the memory's changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from memnets.retrieval.base import ExternalMemory
from memnets.retrieval.words import Analyzer

try:
    from scipy.sparse import csr_array
except ImportError as error:
    raise ImportError("lexical relevance needs scipy: install memnets[retrieval]") from error

LEAST_APART = 256


class Document(NamedTuple):
    """A row's different words, by number, and how often each is in it."""

    words: np.ndarray
    counts: np.ndarray


NO_WORDS = Document(np.empty(0, np.int32), np.empty(0))


class WordCounts:
    """Word counts of every row as a sparse matrix [words, rows], and what idf is made of.

    Rows that have changed lately are kept apart in a small matrix of their own, which is cheap to make anew; once they
    are many, they take the place of what the large one held of them.

    Attributes (with zeros behind the last word or row):
        holders: rows that have a word, by its number.
        lengths: words of a row; 0 where vacant.
        norms: length of a row's vector of 1 + ln(count), over its different words; 0 where it has none.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer
        self._memory: ExternalMemory | None = None
        self._forget()

    def _forget(self) -> None:
        self._version = -1
        self._numbers: dict[str, int] = {}
        self._documents: list[Document] = []
        self._apart: dict[int, None] = {}
        self._bulk = self._few = csr_array((0, 0))
        self.holders = np.zeros(0)
        self.lengths, self.norms, self._in_bulk = np.zeros(0), np.zeros(0), np.zeros(0)

    def follow(self, memory: ExternalMemory) -> bool:
        """Take over what has changed in the memory; return whether anything has."""
        changes = memory.changes_since(self._version) if memory is self._memory else None
        if changes == []:
            return False
        self._memory = None  # an interrupted update starts over
        if changes is None:
            self._forget()
            entries = map(memory.entry, range(memory.num_rows))
            changes = [(row, None if entry is None else entry.text) for row, entry in enumerate(entries)]
        self._take(dict(changes), memory.num_rows)
        self._memory, self._version = memory, memory.version
        return True

    def count(self, text: str) -> Document:
        """Return the words of a text that some row has."""
        known = {
            self._numbers[word]: count for word, count in Counter(self.analyzer(text)).items() if word in self._numbers
        }
        document = _document(known)
        held = self.holders[document.words] > 0
        return Document(document.words[held], document.counts[held])

    def rows_with(self, numbers: np.ndarray) -> csr_array:
        """Return the counts [words asked for, rows] of some words in all rows."""
        bulk = self._bulk[numbers]
        if not self._apart:
            return bulk
        bulk.data *= self._in_bulk[bulk.indices]
        return bulk + self._few[numbers]

    def _take(self, texts: dict[int, str | None], num_rows: int) -> None:
        """Each row's last text."""
        counted = {row: self._number(text) for row, text in texts.items()}
        self._documents += [NO_WORDS] * (num_rows - len(self._documents))
        self.holders = _longer(self.holders, len(self._numbers))
        self.lengths, self.norms = _longer(self.lengths, num_rows), _longer(self.norms, num_rows)
        for row, document in counted.items():
            self.holders[self._documents[row].words] -= 1
            self.holders[document.words] += 1
            self._documents[row] = document
            self.lengths[row] = document.counts.sum()
            self.norms[row] = np.linalg.norm(1 + np.log(document.counts))
        self._apart.update(dict.fromkeys(counted))
        self._invert_changed()

    def _number(self, text: str | None) -> Document:
        """Count a row's words; new ones are given numbers."""
        counts = Counter(self.analyzer(text or ""))
        return _document({self._numbers.setdefault(word, len(self._numbers)): count for word, count in counts.items()})

    def _invert_changed(self) -> None:
        self._few = self._inverted(self._apart)
        self._bulk.resize(self._few.shape)
        self._in_bulk = np.ones(len(self._documents))
        self._in_bulk[list(self._apart)] = 0
        if len(self._apart) > max(LEAST_APART, len(self._documents) // 64):
            self._bulk.data *= self._in_bulk[self._bulk.indices]
            self._bulk.eliminate_zeros()
            self._bulk = self._bulk + self._few
            self._apart, self._few, self._in_bulk = {}, self._inverted({}), np.ones(len(self._documents))

    def _inverted(self, rows: Iterable[int]) -> csr_array:
        """Counts of some rows as [words, rows], zeros in all others."""
        rows = sorted(rows)
        documents = [self._documents[row] for row in rows]
        ends = np.zeros(len(self._documents) + 1, np.int32)
        ends[np.array(rows, int) + 1] = [len(document.words) for document in documents]
        indices = np.concatenate([NO_WORDS.words, *(document.words for document in documents)])
        data = np.concatenate([NO_WORDS.counts, *(document.counts for document in documents)])
        shape = (len(self._documents), len(self._numbers))
        return csr_array((data, indices, ends.cumsum(dtype=np.int32)), shape=shape).tocsc().T


def _document(counts: dict[int, int]) -> Document:
    return Document(np.fromiter(counts.keys(), np.int32, len(counts)), np.fromiter(counts.values(), float, len(counts)))


def _longer(numbers: np.ndarray, size: int) -> np.ndarray:
    """The same numbers, then zeros up to this size and somewhat beyond, so that it is rarely done."""
    return np.concatenate([numbers, np.zeros(size + size // 8 - len(numbers))]) if size > len(numbers) else numbers
