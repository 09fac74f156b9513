"""What is said to a question, how much may be said and written, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Refused(Exception):
    """Something that a person asked for and can't have. Says what is wrong, what is expected, and what to do.

    Attributes:
        status: the same in HTTP's words.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """How large what comes in may be.

    Attributes:
        question: letters of a question.
        id: letters of an entry's id.
        document: letters of an entry's text.
        passages: entries read for one question.
        at_once: entries written by one call.
        entries: entries in memory.
        file: bytes of a file of documents.
        body: bytes of a request.
    """

    question: int = 1_000
    id: int = 200
    document: int = 10_000
    passages: int = 50
    at_once: int = 1_000
    entries: int = 100_000
    file: int = 16 << 20
    body: int = 1 << 20


class Span(NamedTuple):
    """A part of a passage, text[start:end], and its weight."""

    start: int
    end: int
    weight: float


class Passage(NamedTuple):
    """An entry that was read for a question.

    Attributes:
        id: its name in memory.
        text: what it says.
        relevance: its score, in the units that the reader was trained with.
        attention: the share of the reader's attention that it has; None of a reader that attends to nothing.
        tokens: the parts of the text that the reader saw, with their share of its attention; of a reader that answers
            in a passage's own words, the probability that they are in the answer.
        answers: parts that may be the answer, with their probability, best first: of such a reader.
    """

    id: str
    text: str
    relevance: float
    attention: float | None = None
    tokens: tuple[Span, ...] = ()
    answers: tuple[Span, ...] = ()


class Answer(NamedTuple):
    """What a reader says to a question.

    Attributes:
        text: the most probable answer.
        ranking: answers with their probabilities, most probable first.
        passages: what was read for it, most relevant first.
    """

    text: str
    ranking: tuple[tuple[str, float], ...]
    passages: tuple[Passage, ...]
