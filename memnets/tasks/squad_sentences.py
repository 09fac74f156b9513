"""Does a sentence answer a question? Sentences of SQuAD's paragraphs, those with the answer and others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.files import data_root
from memnets.retrieval.passages import TextPair, joined, stacked
from memnets.retrieval.tokenizer import HashedTokenizer, Tokenizer
from memnets.retrieval.words import sentence_places
from memnets.tasks.base import NoOracleError, Task, class_accuracy, class_loss, epoch_indices, generator
from memnets.tasks.squad_files import Question
from memnets.tasks.squad_tokens import SquadTokens, squad_tokens, token_span


class Pair(NamedTuple):
    """A question, by number, and the tokens `start` to `end`, the latter without, of a sentence of its paragraph."""

    question: int
    start: int
    end: int
    answers: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SquadSentences(Task):
    """Pairs of a question and a sentence of its paragraph: class 1 if one of the answers stands in it, else 0.

    Of each question there are two pairs, one of each class, the other sentence being always the same; a paragraph of
    one sentence gives only the first. The class of guessing is right half the time.

    Attributes:
        tokenizer: makes tokens of texts: that of the model's encoder.
        max_sentence: tokens of a sentence that are read.
        max_question: tokens of a question that are read.
        num_validation_articles: as of `SquadReading`.
        num_test_articles: as of `SquadReading`.
        data_root: folder that holds the file, unless MEMNETS_DATA names it.
        verify_checksum: refuse a file that differs from the published one.

    Raises:
        DataError: when it is first used: the file is missing or malformed.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)

    tokenizer: Tokenizer = field(default_factory=HashedTokenizer)
    max_sentence: int = 80
    max_question: int = 40
    num_validation_articles: int = 4
    num_test_articles: int = 6
    data_root: str | None = None
    verify_checksum: bool = True

    @property
    def data(self) -> SquadTokens:
        """The file, tokenised."""
        root = data_root(self.data_root)
        return squad_tokens(root, "dev-v1.1", self.verify_checksum, self.tokenizer)  # type: ignore[arg-type]

    @property
    def spec(self) -> Spec:
        """Tokens in, logits of two classes out."""
        return Spec("text", self.tokenizer.size, 2, heads=("class",))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled pairs; validation and test give each once.

        Raises:
            IndexError: validation or test has no batch `index`.
            ValueError: training has fewer pairs than a batch.
        """
        pairs = pairs_of(self, split)
        if split == "train":
            chosen = epoch_indices(len(pairs), index, batch_size, seed)
        else:
            chosen = generator(seed, split, 0).permutation(len(pairs))[index * batch_size : (index + 1) * batch_size]
            if not len(chosen):
                raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        own = [pairs[i] for i in chosen]
        tokens, types = stacked([self._joined(pair) for pair in own])
        targets = torch.tensor([int(pair.answers) for pair in own])
        return Batch(TextPair(tokens, types), targets, torch.ones_like(targets, dtype=torch.bool))

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that give every pair once; training leaves an incomplete last one out."""
        count = len(pairs_of(self, split))
        return count // batch_size if split == "train" else -(-count // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over pairs."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of pairs, between 0 and 1, whose class is right."""
        return {"accuracy": class_accuracy(outputs, batch)}

    def oracle(self, batch: Batch) -> Tensor:
        """Nobody wrote down a rule.

        Raises:
            NoOracleError: always.
        """
        raise NoOracleError("no rule tells whether a sentence answers a question")

    def _joined(self, pair: Pair) -> tuple[list[int], list[int]]:
        question = self.data.questions[pair.question][: self.max_question]
        paragraph = self.data.paragraphs[self.data.squad.questions[pair.question].paragraph]
        return joined(question, paragraph.tokens[pair.start : pair.end][: self.max_sentence], self.tokenizer)


@lru_cache(maxsize=6)
def pairs_of(task: SquadSentences, split: Split) -> tuple[Pair, ...]:
    """Return all pairs of a split."""
    data, pairs = task.data, []
    for number in data.asked(data.titles(split, task.num_validation_articles, task.num_test_articles)):
        asked = data.squad.questions[number]
        sentences = sentence_places(data.squad.paragraphs[asked.paragraph])
        places = data.paragraphs[asked.paragraph].places
        for answers in (True, False):
            kept = [own for own in sentences if _answers(asked, own) == answers]
            if kept:
                first, last = token_span(places, *kept[number % len(kept)])
                pairs.append(Pair(number, first, last + 1, answers))
    return tuple(pairs)


def _answers(asked: Question, sentence: tuple[int, int]) -> bool:
    """Whether an answer touches a sentence."""
    return any(own.start < sentence[1] and own.start + len(own.text) > sentence[0] for own in asked.answers)
