"""bAbI read from an external memory: sentences and questions as an encoder's vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memnets.contracts import Batch, Spec, Split, Story
from memnets.memory.block import Block
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.question import Question
from memnets.retrieval.selection import Selected
from memnets.retrieval.vector_memory import VectorMemory
from memnets.tasks.babi import Babi
from memnets.tasks.base import Texts

LONGEST_PERIOD = 100.0
"""Facts in which the slowest wave of an age turns by one radian."""


@dataclass(frozen=True, kw_only=True)
class BabiVectors(Babi):
    """`Babi` whose facts were written into a memory, once each; a story is the rows of its facts.

    A reader is given the question's vector and a Block of the story's facts, oldest first, each with `age_size` numbers
    behind its vector that tell how many facts ago it was told: a memory of sentences knows no time by itself. The
    question has zeros there. All facts are equally relevant.

    Attributes:
        encoder: what makes vectors of facts and questions.
        age_size: sines and cosines of an age, together.

    Raises:
        ValueError: age_size is odd or negative, or the view is not `story`.
    """

    encoder: Encoder = field(default_factory=HashedEncoder)
    age_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.age_size < 0 or self.age_size % 2:
            raise ValueError(f"BabiVectors.age_size must be even and not negative, not {self.age_size}")
        if self.view != "story":
            raise ValueError(f"BabiVectors reads stories: leave view at story, not {self.view}")

    @property
    def spec(self) -> Spec:
        """A question and the story's facts in, a word out."""
        return Spec("question", self.encoder.size + self.age_size, len(self.vocabulary))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return the questions that `Babi` returns, encoded.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        batch = super().batch(split, index, batch_size, seed)
        story: Story = batch.inputs
        told = (story.story != 0).any(-1)
        rows = self._facts.find(story.story) * told
        block = self.memory.read(Selected(rows, torch.zeros(rows.shape), told))
        told_ago = (told.sum(1, keepdim=True) - 1 - torch.arange(told.shape[1])).clamp(min=0)
        told_when = waves(told_ago, self.age_size) * told[..., None]
        query = self._question_vectors[self._questions_asked.find(story.query)]
        no_time = query.new_zeros(len(query), self.age_size)
        block = block._replace(vectors=torch.cat([block.vectors, told_when], dim=-1))
        return replace(batch, inputs=Question(torch.cat([query, no_time], dim=-1), block))

    def texts(self, batch: Batch) -> Texts:
        """Return question and facts in words, the facts by their rows, the question by its vector."""
        block: Block = batch.inputs.block
        told = [
            self._words(self._facts.words[row]) if there else ""
            for row, there in zip(block.rows[0].tolist(), block.mask[0].tolist(), strict=True)
        ]
        return Texts(self._words(self._asked(batch)[0]), told, self.vocabulary)

    def oracle(self, batch: Batch) -> Tensor:
        """Read the memory's rows and tell the question by its vector, then do as `Babi`.

        Raises:
            NoOracleError: a task whose rules are not written down here.
        """
        block: Block = batch.inputs.block
        story = self._facts.words[block.rows] * block.mask[..., None]
        return super().oracle(replace(batch, inputs=Story(story, self._asked(batch))))

    @cached_property
    def memory(self) -> VectorMemory:
        """All facts that any story tells; the id of each is its number among them."""
        memory = VectorMemory(self.encoder)
        memory.write([Entry(str(number), text) for number, text in enumerate(self._texts(self._facts))])
        return memory

    @cached_property
    def _facts(self) -> Sentences:
        return Sentences.of(self._corpus.facts)

    @cached_property
    def _questions_asked(self) -> Sentences:
        return Sentences.of(torch.cat([asked.query for asked in self._corpus.splits.values()]))

    @cached_property
    def _question_vectors(self) -> Float[Tensor, "questions word"]:
        return self.encoder.encode(self._texts(self._questions_asked)).vectors

    def _asked(self, batch: Batch) -> Int[Tensor, "batch words"]:
        """The questions' words, told by their vectors."""
        number = (batch.inputs.query[:, : self.encoder.size].cpu() @ self._question_vectors.T).argmax(-1)
        return self._questions_asked.words[number]

    def _texts(self, sentences: Sentences) -> list[str]:
        return [" ".join(self.vocabulary[i] for i in row if i) for row in sentences.words.tolist()]


class Sentences(NamedTuple):
    """Different sentences, a row of word ids each, and their numbers."""

    words: Int[Tensor, "sentences words"]
    number: dict[tuple[int, ...], int]

    @staticmethod
    def of(words: Int[Tensor, "any words"]) -> Sentences:
        """Each sentence once."""
        different = words.unique(dim=0)
        return Sentences(different, {tuple(row): number for number, row in enumerate(different.tolist())})

    def find(self, words: Int[Tensor, "... words"]) -> Int[Tensor, "..."]:
        """Numbers of sentences; 0 of one that is not there, such as padding."""
        found = [self.number.get(tuple(row), 0) for row in words.flatten(0, -2).tolist()]
        return torch.tensor(found).reshape(words.shape[:-1])


def waves(ages: Int[Tensor, "..."], size: int) -> Float[Tensor, "... size"]:
    """Sines and cosines of ages (Vaswani et al. 2017), of frequencies from 1 down to 1 / `LONGEST_PERIOD`."""
    count = size // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(count) / max(count - 1, 1))
    turned = ages[..., None] * rates
    return torch.cat([turned.sin(), turned.cos()], dim=-1)
