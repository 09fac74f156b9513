"""A model that writes its answer, as a reader of what was retrieved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memnets.models.base import SequenceModel
from memnets.retrieval.question import Prompt
from memnets.retrieval.words import words
from memnets.serving.reading import Found, Reading
from memnets.tasks.served import WritingRules

SHOWN = 5
"""Words that a message lists."""


class WritingReader:
    """A model of prompts (`Spec.kind`): the likeliest word after those before, until the answer's end.

    Args:
        model: the trained model, in evaluation.
        vocabulary: the word of each of its classes.
        rules: how it was tested.
    """

    def __init__(self, model: SequenceModel, vocabulary: Sequence[str], rules: WritingRules) -> None:
        self.model, self.vocabulary, self.rules = model, tuple(vocabulary), rules
        self._number = {word: number for number, word in enumerate(self.vocabulary)}

    @torch.no_grad()
    def read(self, found: Found) -> Reading:
        """Answer in one sentence, with the probability of all its words and its end.

        An item's attention is the mean over the words of the answer, its end among them, of the share that it had as
        each was chosen.

        Raises:
            ValueError: the question has a word that the model doesn't know, or too many.
        """
        asked = self._question(found.question)
        where = torch.arange(self.rules.longest - 1)[None] >= len(asked)
        told = torch.zeros_like(where, dtype=torch.long)
        told[0, : len(asked) + 1] = torch.tensor([*asked, self.rules.end])
        written = self.model.go_on(Prompt(told, found.block), where)
        assert written is not None, "a model of prompts writes"
        answer = self._up_to_end(written[0, len(asked) :].tolist())
        prompt = Prompt(torch.tensor([[*asked, self.rules.end, *answer[:-1]]]), found.block)
        logits, weights = self.model(prompt)[0][0, len(asked) :], self.model.word_attention(prompt)
        chosen = logits.double().log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
        text = " ".join(self.vocabulary[number] for number in answer if number != self.rules.end)
        attention = None if weights is None else weights[0, len(asked) :].mean(0)
        return Reading(((text, float(chosen.sum().exp())),), attention)

    def end(self, text: str) -> None:
        """As far as the memory keeps items."""

    def value(self, text: str) -> int:
        """A text says no class."""
        return -1

    def note(self, text: str) -> str | None:
        """Which of its words the reader can't write."""
        unknown = self._unknown(text)
        if not unknown:
            return None
        return f"the reader can't write {_listed(unknown)}: it knows {len(self.vocabulary) - 2} words"

    def _question(self, question: str) -> list[int]:
        """Ids of a question's words."""
        if unknown := self._unknown(question):
            known = f"it knows the {len(self.vocabulary) - 2} words of its training"
            raise ValueError(f"the reader doesn't know {_listed(unknown)}: {known}; ask in these")
        asked, most = [self._number[word] for word in words(question)], self.rules.longest_question
        if not 0 < len(asked) <= most:
            raise ValueError(f"the question has {len(asked)} words: expected from 1 to {most}, as in training")
        return asked

    def _unknown(self, text: str) -> list[str]:
        return [word for word in dict.fromkeys(words(text)) if word not in self._number]

    def _up_to_end(self, written: list[int]) -> list[int]:
        """What was written up to the first end, which may be missing."""
        return written[: written.index(self.rules.end) + 1] if self.rules.end in written else written


def _listed(unknown: Sequence[str]) -> str:
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return ", ".join(map(repr, unknown[:SHOWN])) + more
