"""SQuAD as tokens: paragraphs, questions, answers as spans of tokens, and which articles are for what."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from memnets.contracts import Split
from memnets.retrieval.tokenizer import Tokenized, Tokenizer
from memnets.tasks.squad_files import Squad, read_squad

SPLIT_SEED = 0
"""Which articles are for what never changes with a run's seed."""


@dataclass(frozen=True, eq=False)
class SquadTokens:
    """A file of SQuAD, tokenised.

    Attributes:
        squad: the file.
        paragraphs: tokens of each paragraph.
        questions: tokens of each question.
        spans: of each question, first and last token of each of its answers.
        order: titles of articles, in the order in which splits take them: test, validation, training.
    """

    squad: Squad
    paragraphs: tuple[Tokenized, ...]
    questions: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    order: tuple[str, ...]

    def titles(self, split: Split, num_validation: int, num_test: int) -> frozenset[str]:
        """Return the articles of a split."""
        cuts = {"test": (0, num_test), "validation": (num_test, num_test + num_validation),
                "train": (num_test + num_validation, None)}  # fmt: skip
        return frozenset(self.order[slice(*cuts[split])])

    def asked(self, titles: frozenset[str]) -> tuple[int, ...]:
        """Return the questions about some articles."""
        return tuple(i for i, asked in enumerate(self.squad.questions) if self.squad.titles[asked.paragraph] in titles)

    def text(self, paragraph: int, start: int, end: int) -> str:
        """Return what the tokens `start` to `end` of a paragraph stand for."""
        places = self.paragraphs[paragraph].places
        return self.squad.paragraphs[paragraph][places[start][0] : places[end][1]]


@lru_cache(maxsize=4)
def squad_tokens(root: Path, name: str, check_published: bool, tokenizer: Tokenizer) -> SquadTokens:
    """Return a file of SQuAD as a tokenizer's tokens; made once per process.

    Raises:
        DataError: as `read_squad` does.
    """
    squad = read_squad(root, name, check_published)
    paragraphs = tuple(map(tokenizer.tokenize, squad.paragraphs))
    questions = tuple(tokenizer.tokenize(asked.text).tokens for asked in squad.questions)
    titles = sorted(set(squad.titles))
    order = tuple(titles[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(titles)))
    return SquadTokens(squad, paragraphs, questions, tuple(_spans(squad, paragraphs)), order)


def _spans(squad: Squad, paragraphs: tuple[Tokenized, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    for asked in squad.questions:
        places = paragraphs[asked.paragraph].places
        yield tuple(token_span(places, start, start + len(text)) for start, text in asked.answers)


def token_span(places: tuple[tuple[int, int], ...], start: int, end: int) -> tuple[int, int]:
    """Return first and last of the tokens that touch the characters `start` to `end`, the latter without."""
    first = bisect_right(places, start, key=lambda place: place[1])
    last = bisect_left(places, end, key=lambda place: place[0]) - 1
    return min(first, len(places) - 1), max(last, min(first, len(places) - 1))
