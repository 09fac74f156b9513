"""The seam between a memory and what answers from it: what was found, what a reader makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from memnets.memory.block import Block
from memnets.retrieval.entries import Entry
from memnets.serving.answer import Span


class Found(NamedTuple):
    """What was retrieved for one question.

    Attributes:
        question: as it was asked.
        query: its encoding.
        entries: what was found, most relevant first.
        block: the same, as models read it.
        relevance: of each entry.
    """

    question: str
    query: Float[Tensor, "1 word"]
    entries: Sequence[Entry]
    block: Block
    relevance: Sequence[float] = ()


class Reading(NamedTuple):
    """What a reader makes of it.

    Attributes:
        ranking: answers with their probabilities, most probable first.
        attention: the share that each item of the Block has; None where there is none.
        answers: by entry, where answers stand in its text; nothing of a reader that knows its answers beforehand.
        tokens: by entry, the parts of its text that were read, with their weight; nothing where the Block's are meant.
    """

    ranking: tuple[tuple[str, float], ...]
    attention: Float[Tensor, " items"] | None = None
    answers: Sequence[Sequence[Span]] = ()
    tokens: Sequence[Sequence[Span]] = ()


@runtime_checkable
class Reader(Protocol):
    """What answers a question from passages. One that answers by spans fills `Reading.answers` and writes no values."""

    def read(self, found: Found) -> Reading:
        """Answer."""
        ...

    def end(self, text: str) -> int | None:
        """Where reading of a long text ends; None of a reader of the Block's items, which the memory cuts."""
        ...

    def value(self, text: str) -> int:
        """What a new text says as a class, as `Entry.value` has it; -1 for none."""
        ...

    def note(self, text: str) -> str | None:
        """What a person who writes this text should know, if there is something."""
        ...
