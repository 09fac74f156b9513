"""Questions about people who are seen only in memory, and again after facts were edited there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.retrieval.answer_tokens import answer_tokens
from memnets.retrieval.base import ExternalMemory, Queries, Relevance
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.question import Question
from memnets.retrieval.ranking import gold_ranks
from memnets.retrieval.relevance import Dense
from memnets.retrieval.selection import Selected, Selection, TopK
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.tasks.base import Task, Texts, as_tensor, class_accuracy, class_loss, epoch_indices, generator
from memnets.tasks.people_facts import ANSWERS, ATTRIBUTES, Fact, draw_facts, edit
from memnets.tasks.served import Served, WritingRules

Asks = Literal["all", "edited", "kept"]


@dataclass(frozen=True, kw_only=True)
class PeopleQA(Task):
    """One question about one attribute of one person; the answer is one of the 108 values of all attributes.

    ```
    memory     charles williams lives in rome. | by profession ann reed is a judge. | ...     a sentence per fact
    question   where does charles williams live?     target rome
    edited     rome -> beijing, in memory alone      target beijing, asked of the same weights
    ```

    The memory holds the facts of everybody. Training asks about some people, validation and test about others: what is
    true of them stands in memory alone. Facts and questions are told in one of two ways, drawn for each. Retrieval has
    nothing to learn and is done here, once: `relevance` scores all facts for a question, `selection` chooses those
    that the batch's `Question` holds. Scores are divided by their standard deviation over training questions and
    facts, so that a reader's weight of them means the same for any relevance.

    Test sets: `test`, after which half of the test people's facts are replaced in memory: `edited` asks about these
    (edit success), `kept` about the others (locality). Each tells `recall` too, the share of questions whose fact was
    retrieved. Who knows no fact, but which attribute is asked for, is right 5.9 % of the time.

    Attributes:
        num_people: people in memory, each with six facts.
        num_validation_people: those that validation asks about.
        num_test_people: those that the test asks about.
        encoder: what makes vectors of facts and questions.
        memory: makes the memory for an encoder: whether a fact is read as one vector or as its tokens' states (12 of
            them if not said otherwise: no fact has more).
        relevance: how facts are scored.
        selection: which of the scored facts are read.
        asks: test questions: all of them, or, with facts replaced in memory, those about `edited` or `kept` facts.
        data_seed: other people, facts and edits.

    Raises:
        ValueError: too few people, or names, or nobody to train on.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    spans: ClassVar[None] = None
    writing: ClassVar[WritingRules | None] = None

    num_people: int = 500
    num_validation_people: int = 20
    num_test_people: int = 100
    encoder: Encoder = field(default_factory=HashedEncoder)
    memory: Callable[[Encoder], ExternalMemory] = partial(SequenceMemory, max_tokens=12)  # noqa: RUF009
    relevance: Relevance = field(default_factory=Dense)
    selection: Selection = field(default_factory=TopK)
    asks: Asks = "all"
    data_seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_validation_people, self.num_test_people) < 1:
            raise ValueError("PeopleQA needs at least 1 of num_validation_people and of num_test_people")
        if self.num_training_people < 1:
            raise ValueError(
                f"PeopleQA.num_people={self.num_people} leaves nobody to train on beside "
                f"{self.num_validation_people} for validation and {self.num_test_people} for the test"
            )
        _ = facts_of(self)

    @property
    def num_training_people(self) -> int:
        """People that training asks about: those who are left."""
        return self.num_people - self.num_validation_people - self.num_test_people

    @property
    def spec(self) -> Spec:
        """A question and what was read for it in, an answer out."""
        return spec_of(self)

    @property
    def chance(self) -> dict[str, float]:
        """Any value is as likely as another."""
        return {"accuracy": 1 / len(ANSWERS)}

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled questions; validation and test ask each of theirs once.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        asked, rows = asked_of(self, split), self.rows(split, index, batch_size, seed)
        block = memory_of(self).read(Selected(*(part[rows] for part in asked.selected)))
        supports = (block.rows == asked.gold[rows, None]) & block.mask
        answer = asked.answer[rows]
        inputs = Question(asked.query[rows], block)
        return Batch(inputs, answer, torch.ones_like(answer, dtype=torch.bool), supports=supports)

    def rows(self, split: Split, index: int, batch_size: int, seed: int) -> Int[Tensor, " batch"]:
        """Return which of a split's questions a batch asks.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        count = len(asked_facts(self, split))
        if split == "train":
            return as_tensor(epoch_indices(count, index, batch_size, seed))
        order = as_tensor(generator(seed, split, 0).permutation(count))
        rows = order[index * batch_size : (index + 1) * batch_size]
        if not len(rows):
            raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        return rows

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask every question once; training leaves an incomplete last batch out."""
        num_questions = len(asked_facts(self, split))
        return num_questions // batch_size if split == "train" else -(-num_questions // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over questions."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of questions, between 0 and 1, answered right: exact match, and F1 too, as answers are one word."""
        return {"accuracy": class_accuracy(outputs, batch)}

    def retrieval_ranks(self, split: Split) -> list[Tensor]:
        """Rank of the fact that is asked for, among everybody's."""
        scores = scores_of(self, split)
        return gold_ranks(scores, F.one_hot(asked_of(self, split).gold, scores.shape[1]).bool())

    def texts(self, batch: Batch) -> Texts | None:
        """Return the question, told by its vector, and of each item the fact it belongs to."""
        memory, block = memory_of(self), batch.inputs.block
        entries = [memory.entry(row) for row in block.rows[0].tolist()]
        items = [
            "" if e is None or not there else e.text for e, there in zip(entries, block.mask[0].tolist(), strict=True)
        ]
        return Texts(self._asked(batch)[0].question.rstrip("?"), items, ANSWERS)

    def oracle(self, batch: Batch) -> Tensor:
        """Tell the question by its vector, and read the value of the fact it asks for, retrieved or not."""
        values = [held(memory_of(self), fact.id)[1].value for fact in self._asked(batch)]
        return 20.0 * F.one_hot(torch.tensor(values), len(ANSWERS))

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself; and asked after edits, about what was edited and what wasn't."""
        if self.asks != "all":
            return {"test": self}
        return {"test": self, "edited": replace(self, asks="edited"), "kept": replace(self, asks="kept")}

    def served(self) -> Served:
        """Everybody's facts, and one of the test's questions."""
        return Served(memory_of(self), asked_facts(self, "test")[0].question, score_unit(self), ANSWERS)

    def _asked(self, batch: Batch) -> list[Fact]:
        """Facts that are asked for, as they were before any edit, told by the questions' vectors."""
        number = (batch.inputs.query.float().cpu() @ encoded_questions(self).T).argmax(-1)
        return [facts_of(self)[i] for i in number.tolist()]


class Asked(NamedTuple):
    """Questions of one split: vectors, the rows of the memory that answer them, classes, and what was retrieved."""

    query: Float[Tensor, "questions word"]
    gold: Int[Tensor, " questions"]
    answer: Int[Tensor, " questions"]
    selected: Selected


def facts_of(task: PeopleQA) -> tuple[Fact, ...]:
    """Return everybody's facts, as they are before any edit."""
    return _facts(task.num_people, task.data_seed)


def edits_of(task: PeopleQA) -> dict[str, Fact]:
    """Return what half of the facts of those the test asks about become, drawn, by id."""
    facts = asked_facts(replace(task, asks="all"), "test")
    order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(task.data_seed)).tolist()
    return {facts[i].id: edit(facts[i], task.data_seed) for i in order[: len(facts) // 2]}


def asked_facts(task: PeopleQA, split: Split) -> tuple[Fact, ...]:
    """Return the facts that a split asks for, as they are asked for: edited ones with their new value."""
    last = {"train": task.num_training_people, "validation": task.num_people - task.num_test_people}
    per_person = len(ATTRIBUTES)
    train, validation = (last[name] * per_person for name in ("train", "validation"))
    facts = facts_of(task)
    facts = {"train": facts[:train], "validation": facts[train:validation], "test": facts[validation:]}[split]
    if split != "test" or task.asks == "all":
        return facts
    edits = edits_of(task)
    if task.asks == "edited":
        return tuple(edits[fact.id] for fact in facts if fact.id in edits)
    return tuple(fact for fact in facts if fact.id not in edits)


@lru_cache(maxsize=8)
def _facts(num_people: int, seed: int) -> tuple[Fact, ...]:
    return draw_facts(num_people, seed)


@lru_cache(maxsize=8)
def encoded_questions(task: PeopleQA) -> Float[Tensor, "facts word"]:
    """Return the vectors of the questions about all facts."""
    if task.asks != "all":
        return encoded_questions(replace(task, asks="all"))
    return task.encoder.encode([fact.question for fact in facts_of(task)]).vectors


@lru_cache(maxsize=4)
def memory_of(task: PeopleQA) -> ExternalMemory:
    """Return the memory with everybody's facts; for questions after the edits, with these made in it."""
    if task.asks == "kept":
        return memory_of(replace(task, asks="edited"))
    memory = task.memory(task.encoder)
    memory.write([_entry(fact) for fact in facts_of(task)])
    if task.asks == "edited":
        memory.replace([_entry(fact) for fact in edits_of(task).values()])
    return memory


@lru_cache(maxsize=4)
def scores_of(task: PeopleQA, split: Split) -> Float[Tensor, "questions rows"]:
    """Return how relevant each row of the memory is to each question of a split."""
    facts = asked_facts(task, split)
    number = {fact.id: i for i, fact in enumerate(facts_of(task))}
    query = encoded_questions(task)[[number[fact.id] for fact in facts]]
    queries = Queries([fact.question for fact in facts], query, [[fact.id] for fact in facts])
    return task.relevance.scores(memory_of(task), queries)


@lru_cache(maxsize=8)
def asked_of(task: PeopleQA, split: Split) -> Asked:
    """Return a split's questions with what was retrieved for them."""
    memory, facts = memory_of(task), asked_facts(task, split)
    number = {fact.id: i for i, fact in enumerate(facts_of(task))}
    query = encoded_questions(task)[[number[fact.id] for fact in facts]]
    selected = task.selection.select(scores_of(task, split))
    selected = selected._replace(scores=selected.scores / score_unit(task))
    gold = torch.tensor([held(memory, fact.id)[0] for fact in facts])
    return Asked(query, gold, torch.tensor([fact.value for fact in facts]), selected)


@lru_cache(maxsize=8)
def score_unit(task: PeopleQA) -> float:
    """Return the standard deviation of training questions' scores, before any edit; 1 where all are equal."""
    scores = scores_of(replace(task, asks="all"), "train")
    return float(scores[scores > -math.inf].std()) or 1.0


@lru_cache(maxsize=8)
def spec_of(task: PeopleQA) -> Spec:
    """Return the task's sizes; what its kind of memory gives to read is tried with one fact."""
    memory = task.memory(task.encoder)
    memory.write([_entry(facts_of(task)[0])])
    block = memory.read(TopK(1).select(torch.zeros(1, memory.num_rows)))
    tokens = () if block.tokens is None else answer_tokens(task.encoder, ANSWERS)
    values = block.values is not None
    return Spec("question", task.encoder.size, len(ANSWERS), answer_tokens=tokens, has_values=values)


def _entry(fact: Fact) -> Entry:
    return Entry(fact.id, fact.text, fact.value)


def held(memory: ExternalMemory, id: str) -> tuple[int, Entry]:
    """Row and entry of an id that the memory holds."""
    row = memory.row(id)
    assert row is not None
    entry = memory.entry(row)
    assert entry is not None
    return row, entry
