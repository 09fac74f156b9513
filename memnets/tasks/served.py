"""What a task says of itself so that its trained reader can be exported with its memory, asked and edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from memnets.retrieval.base import ExternalMemory, Relevance
from memnets.retrieval.encoder import Encoder
from memnets.retrieval.passages import SpanRules
from memnets.retrieval.selection import Selection


class WritingRules(NamedTuple):
    """How a model writes its answers, word by word after the question.

    Attributes:
        longest: words of a question and its answer, with the end of each.
        longest_question: words of a question, without its end: no longer one was trained with.
        end: id of what ends a question and an answer.
    """

    longest: int
    longest_question: int
    end: int = 1


class Served(NamedTuple):
    """What is exported once, and belongs to no configuration.

    Attributes:
        memory: with its entries.
        example: a question that can be asked of it.
        score_unit: what scores are divided by before the model sees them.
        answers: the word of each of the model's classes, the first two no words where it writes (padding, end); none
            where answers are spans of what was found.
    """

    memory: ExternalMemory
    example: str
    score_unit: float = 1.0
    answers: tuple[str, ...] = ()


@runtime_checkable
class ServedTask(Protocol):
    """A task whose model reads what a relevance finds in a memory of texts."""

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of entries and questions."""
        ...

    @property
    def memory(self) -> Callable[[Encoder], ExternalMemory]:
        """Makes an empty memory of the kind that is read."""
        ...

    @property
    def relevance(self) -> Relevance:
        """Scores every entry for a question."""
        ...

    @property
    def selection(self) -> Selection:
        """Chooses those that are read."""
        ...

    @property
    def spans(self) -> SpanRules | None:
        """How answers are copied from what was found; None of a model whose classes are the answers, or their words."""
        ...

    @property
    def writing(self) -> WritingRules | None:
        """How answers are written; None of a model that writes none."""
        ...

    def served(self) -> Served:
        """Return the rest, once: the data are read for it."""
        ...
