"""Questions about people who are seen only in memory, answered in words: a language model that reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.retrieval.question import Prompt
from memnets.retrieval.words import words
from memnets.tasks.base import class_accuracy, class_loss, ratio
from memnets.tasks.language_modelling import perplexity
from memnets.tasks.people_facts import ANSWERS, ATTRIBUTES, FIRST_NAMES, LAST_NAMES, Fact
from memnets.tasks.people_qa import PeopleQA, asked_facts, facts_of, held, memory_of
from memnets.tasks.served import Served, WritingRules
from memnets.tasks.squad_scores import f1

PADDING, END = 0, 1
"""Ids of words: no word, and what ends a question and an answer."""

TEMPLATES = tuple(text for each in ATTRIBUTES for text in (each.facts[0], *each.questions))
VOCABULARY = (
    "<pad>",
    "<end>",
    *sorted({*FIRST_NAMES, *LAST_NAMES, *ANSWERS, *words(" ".join(TEMPLATES).format(person="", value=""))}),
)
NUMBER = {word: number for number, word in enumerate(VOCABULARY)}
LENGTHS = [
    tuple(len(words(text.format(person="a b", value="c"))) for text in (question, each.facts[0]))
    for each in ATTRIBUTES
    for question in each.questions
]
"""Words of each question and of its answer."""

LONGEST = max(question + answer for question, answer in LENGTHS) + 2
"""Words of a question and its answer, with the end of each."""


@dataclass(frozen=True, kw_only=True)
class PeopleGeneration(PeopleQA):
    """`PeopleQA` whose answers are sentences, to be written word by word after the question.

    ```
    memory     the home of charles williams is in rome. | by profession ann reed is a judge. | ...
    inputs     where does charles williams live <end> charles williams lives in rome
    targets                                     charles williams lives in rome <end>
    edited     rome -> beijing, in memory alone: charles williams lives in beijing <end>
    ```

    An answer is told in the first of its attribute's two ways, however the question asks and memory tells it: it can't
    be copied as it stands. Loss and `accuracy` are of next words, each expected after the right ones; `perplexity` is
    exp of the loss. `exact_match` and `f1` are of what a model writes by itself, as shares: of answers that are right
    from the first word to the end, and SQuAD's F1 between words.

    Who knows no fact, but writes the rest of the sentence, has 5.9 % of exact matches.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    writing: ClassVar[WritingRules | None] = WritingRules(LONGEST, max(question for question, _ in LENGTHS), END)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words of all questions and answers."""
        return VOCABULARY

    @property
    def spec(self) -> Spec:
        """Words in, and what was read beside them; logits of the next word out."""
        return Spec("prompt", len(VOCABULARY), len(VOCABULARY), item_size=self.encoder.size)

    @property
    def chance(self) -> dict[str, float]:
        """Any word is as likely as another."""
        return {"accuracy": 1 / len(VOCABULARY)}

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled questions with their answers; validation and test ask each of theirs once.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        asked = super().batch(split, index, batch_size, seed)
        texts = texts_of(self, split)[self.rows(split, index, batch_size, seed)]
        behind_question = (texts == END).cumsum(1) > 0
        mask = behind_question[:, :-1] & (texts[:, 1:] != PADDING)
        return Batch(Prompt(texts[:, :-1], asked.inputs.block), texts[:, 1:], mask, supports=asked.supports)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over the answers' words."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of the answers' words, between 0 and 1, whose logit is the largest."""
        return {"accuracy": class_accuracy(outputs, batch)}

    def derived_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """`perplexity` of the answers: exp of the mean loss."""
        return {"perplexity": perplexity(means["loss"])}

    def judge_written(self, written: Int[Tensor, "batch time"], batch: Batch) -> dict[str, Ratio]:
        """Shares, between 0 and 1: answers written exactly, and mean F1."""
        exact = ((written == batch.targets) | ~batch.mask).all(1)
        starts = batch.mask.int().argmax(1).tolist()
        told, right = (
            [sentence(row[at:]) for row, at in zip(ids, starts, strict=True)] for ids in (written, batch.targets)
        )
        shared = [f1(own, [reference]) for own, reference in zip(told, right, strict=True)]
        return {"exact_match": ratio(exact.double()), "f1": ratio(torch.tensor(shared).double())}

    def oracle(self, batch: Batch) -> Tensor:
        """Tell the question by its words, and read the fact it asks for, retrieved or not."""
        memory, asked = memory_of(self), {" ".join(words(fact.question)): fact for fact in facts_of(self)}
        facts = [asked[sentence(row)] for row in batch.inputs.words]
        told = torch.stack([_text(fact._replace(value=held(memory, fact.id)[1].value)) for fact in facts])
        return 20.0 * F.one_hot(told[:, 1:], len(VOCABULARY))

    def texts(self, batch: Batch) -> None:
        """Answers are many words, and no picture is drawn of what was read at each."""

    def served(self) -> Served:
        """Everybody's facts, one of the test's questions, and the words that the classes are."""
        return super().served()._replace(answers=VOCABULARY)


@lru_cache(maxsize=8)
def texts_of(task: PeopleGeneration, split: Split) -> Int[Tensor, "questions time"]:
    """Return a split's questions and answers, each with its end, as ids of words."""
    return torch.stack([_text(fact) for fact in asked_facts(task, split)])


def answer(fact: Fact) -> str:
    """Return the sentence that answers the question about a fact."""
    person, _, name = fact.id.partition("/")
    attribute = next(each for each in ATTRIBUTES if each.name == name)
    return attribute.facts[0].format(person=person, value=ANSWERS[fact.value])


def sentence(ids: Int[Tensor, " time"]) -> str:
    """Return the words before the first end, or all if there is none, apart by blanks."""
    numbers = ids.tolist()
    return " ".join(VOCABULARY[number] for number in numbers[: numbers.index(END) if END in numbers else None])


def _text(fact: Fact) -> Int[Tensor, " time"]:
    told = [*(NUMBER[word] for word in words(fact.question)), END, *(NUMBER[word] for word in words(answer(fact))), END]
    return F.pad(torch.tensor(told), (0, LONGEST - len(told)), value=PADDING)
