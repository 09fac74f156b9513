"""A model that chooses among known answers, as a reader of what was retrieved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memnets.models.base import SequenceModel
from memnets.retrieval.question import Question
from memnets.retrieval.words import words
from memnets.serving.reading import Found, Reading


class ClassReader:
    """A model of questions (`Spec.kind`) whose classes are the answers.

    Args:
        model: the trained model, in evaluation.
        answers: the word of each class.
    """

    def __init__(self, model: SequenceModel, answers: Sequence[str]) -> None:
        self.model, self.answers = model, tuple(answers)

    @torch.no_grad()
    def read(self, found: Found) -> Reading:
        """Answer by the model's probabilities."""
        block = found.block
        if block.values is None:  # people may have erased every entry that says a class
            block = block._replace(values=torch.full_like(block.rows, -1))
        asked = Question(found.query, block)
        probabilities = self.model(asked)[0][0].double().softmax(-1).tolist()
        ranking = sorted(zip(self.answers, probabilities, strict=True), key=lambda pair: -pair[1])
        attend = getattr(self.model, "attention", None)
        weights = None if attend is None else attend(asked)
        return Reading(tuple(ranking), None if weights is None else weights[0].mean(0))

    def end(self, text: str) -> None:
        """As far as the memory keeps items."""

    def value(self, text: str) -> int:
        """The class of the one answer that stands in the text; -1 where none does, or several do."""
        said = self._said(text)
        return self.answers.index(said[0]) if len(said) == 1 else -1

    def note(self, text: str) -> str | None:
        """That no answer stands in the text: then none can be found there."""
        if self._said(text):
            return None
        return (
            f"no answer that the reader knows stands in what it sees of this text: it knows {len(self.answers)} words"
        )

    def _said(self, text: str) -> list[str]:
        return sorted(set(words(text)) & set(self.answers))
