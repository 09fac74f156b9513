"""Reading SQuAD: the answer is a span of a passage that is given, or has to be found among all there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.files import data_root
from memnets.retrieval.base import Relevance
from memnets.retrieval.encoder import Encoder, HashedEncoder
from memnets.retrieval.passages import SPECIAL, Passages, SpanRules, best_spans, joined, stacked
from memnets.retrieval.ranking import gold_ranks
from memnets.retrieval.relevance import Oracle
from memnets.retrieval.selection import Selected, Selection, TopK
from memnets.retrieval.tokenizer import HashedTokenizer, Tokenizer
from memnets.retrieval.vector_memory import VectorMemory
from memnets.tasks.base import Task, class_loss, generator, ratio
from memnets.tasks.length_pools import training_rows
from memnets.tasks.served import Served
from memnets.tasks.squad_relevance import article_memory, paragraph_scores
from memnets.tasks.squad_scores import exact_match, f1
from memnets.tasks.squad_tokens import SquadTokens, squad_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class SquadReading(Task):
    """Where in its passages does the answer to a question stand?

    ```
    memory     all 2,067 paragraphs of the file
    inputs     [CLS] what is the highest peak ? [SEP] ... the highest peak is mount storm , which ... [SEP]
    targets    the tokens `mount` and `storm`: the first and the last of the answer
    ```

    Articles are split: nothing is known of a test article but its passages. `relevance` scores all paragraphs of the
    file for a question and `selection` takes those that are read; `Oracle` and the best one are SQuAD's own setting.
    Training always reads the gold passage: it takes the last one's place where it was not found. Training cuts each
    passage to a random window, the gold one's with the answer inside; validation and test read from the beginning.
    Only passages are cut, a question only beyond `max_question` tokens.

    Test sets: `test`, as trained, and one for each of `test_relevances`, named as their classes: `bm25`, `hybrid`. Each
    tells `recall` too, the share of questions whose gold passage was read. `exact_match` and `f1` are SQuAD's own, as
    shares; the text of any passage counts, the gold one or not.

    Attributes:
        file: name of the file, whose layouts `squad_files.py` lists.
        tokenizer: makes tokens of texts: that of the model's encoder.
        relevance: how passages are scored.
        selection: which of the scored passages are read.
        encoder: makes vectors of questions and passages for the relevances that look at these.
        test_relevances: further ones that the finished model is tested with.
        window: tokens of a passage that training reads.
        max_tokens: tokens of a question and a passage together that validation and test read.
        max_question: tokens of a question.
        max_answer: tokens of the longest span that is an answer.
        relevance_weight: how much a passage's relevance adds to the scores of its spans when one is chosen.
        num_validation_articles: those that validation asks about.
        num_test_articles: those that the test asks about.
        data_root: folder that holds the file, unless MEMNETS_DATA names it.
        verify_checksum: refuse a file that differs from the published one.

    Raises:
        ValueError: a window or a number that leaves nothing to read, or no article to train on.
        DataError: when it is first used: the file is missing or malformed.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("exact_match", "f1")
    writing: ClassVar[None] = None
    memory: ClassVar[type[VectorMemory]] = VectorMemory

    file: str = "dev-v1.1"
    tokenizer: Tokenizer = field(default_factory=HashedTokenizer)
    relevance: Relevance = field(default_factory=Oracle)
    selection: Selection = field(default_factory=lambda: TopK(1))
    encoder: Encoder = field(default_factory=HashedEncoder)
    test_relevances: Sequence[Relevance] = ()
    window: int = 96
    max_tokens: int = 384
    max_question: int = 40
    max_answer: int = 20
    relevance_weight: float = 0.0
    num_validation_articles: int = 4
    num_test_articles: int = 6
    data_root: str | None = None
    verify_checksum: bool = True

    def __post_init__(self) -> None:
        for name in ("max_question", "max_answer", "num_validation_articles", "num_test_articles"):
            if getattr(self, name) < 1:
                raise ValueError(f"SquadReading.{name} must be at least 1, not {getattr(self, name)}")
        if self.window < self.max_answer or self.max_tokens < self.max_question + SPECIAL + self.max_answer:
            raise ValueError(
                f"SquadReading reads a window of {self.window} tokens, of question and passage at most "
                f"{self.max_tokens}: too few for a question of {self.max_question} and an answer of {self.max_answer}"
            )
        names = [type(relevance).__name__.lower() for relevance in self.test_relevances]
        if len({"test", *names}) <= len(names):
            raise ValueError(f"SquadReading.test_relevances must be of different classes, not {', '.join(names)}")

    @property
    def data(self) -> SquadTokens:
        """The file, tokenised."""
        root = data_root(self.data_root)
        return squad_tokens(root, self.file, self.verify_checksum, self.tokenizer)  # type: ignore[arg-type]

    @property
    def spec(self) -> Spec:
        """Tokens in, logits of the answer's first and last token out."""
        return Spec("text", self.tokenizer.size, 2, heads=("span",))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return questions of like length: shuffled for training, each once and the longest first for others.

        Raises:
            IndexError: validation or test has no batch `index`.
            ValueError: training has fewer questions than a batch.
        """
        asked = asked_of(self, split)
        if split == "train":
            return self._read(
                asked, training_rows(asked.lengths, index, batch_size, seed), generator(seed, split, index)
            )
        places = np.argsort(-np.array(asked.lengths), kind="stable")[index * batch_size : (index + 1) * batch_size]
        if not len(places):
            raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        return self._read(asked, places, None)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask every question once; training leaves an incomplete last batch out."""
        count = len(asked_of(self, split).numbers)
        return count // batch_size if split == "train" else -(-count // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats of first and last token over all passages' tokens, summed over both and questions."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Shares, between 0 and 1, of questions answered exactly; and mean F1."""
        answers = self.answers(outputs, batch)
        asked = [self.data.squad.questions[number] for number in batch.inputs.question.tolist()]
        references = [[answer.text for answer in each.answers] for each in asked]
        scores = {"exact_match": exact_match, "f1": f1}
        return {
            name: ratio(torch.tensor([score(*pair) for pair in zip(answers, references, strict=True)]).double())
            for name, score in scores.items()
        }

    def retrieval_ranks(self, split: Split) -> list[Tensor]:
        """Rank of the paragraph that was asked about, among all of the file's."""
        numbers = asked_of(self, split).numbers
        scores = paragraph_scores(self.data.squad, numbers, self.relevance, self.encoder)
        gold = torch.tensor([self.data.squad.questions[number].paragraph for number in numbers])
        return gold_ranks(scores, F.one_hot(gold, scores.shape[1]).bool())

    def answers(self, outputs: Float[Tensor, "batch 2 places"], batch: Batch) -> list[str]:
        """Return the text of each question's best span; "" where there was no passage to read."""
        inputs: Passages = batch.inputs
        spans = best_spans(outputs, inputs, self.max_answer, self.relevance_weight)
        rows = [int(inputs.rows[i, span.passage]) for i, span in enumerate(spans)]
        told = zip(rows, spans, strict=True)
        return [self.data.text(row, span.start, span.end) if row >= 0 else "" for row, span in told]

    def oracle(self, batch: Batch) -> Tensor:
        """Look the question up: all that reading can do with the passages that were retrieved.

        Where the gold passage is not among them, or the answer beyond what is read of it, nothing is known.
        """
        inputs: Passages = batch.inputs
        outputs = torch.zeros(batch.size, 2, inputs.tokens[0].numel())
        for row, number in enumerate(inputs.question.tolist()):
            place = self._place(inputs, row, number, self.data.spans[number][0])
            if place is not None:
                outputs[row, [0, 1], list(place)] = 30.0
        return outputs

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself, and as it is with each of `test_relevances`."""
        others = {
            type(own).__name__.lower(): replace(self, relevance=own, test_relevances=()) for own in self.test_relevances
        }
        return {"test": self, **others}

    @property
    def spans(self) -> SpanRules:
        """How the test reads, and chooses among spans."""
        return SpanRules(self.tokenizer, self.max_tokens, self.max_question, self.max_answer, self.relevance_weight)

    def served(self) -> Served:
        """All paragraphs of the file, and the first question of the test."""
        data = self.data
        first = data.asked(data.titles("test", self.num_validation_articles, self.num_test_articles))[0]
        return Served(article_memory(data.squad, self.encoder), data.squad.questions[first].text)

    def _read(self, asked: Asked, places: np.ndarray, random: np.random.Generator | None) -> Batch:
        """Return the questions at some places of a split, joined to their passages; training brings random numbers."""
        numbers = [asked.numbers[place] for place in places]
        rows, gold = self._rows(asked, numbers, places, training=random is not None)
        spans = [own[random.integers(len(own)) if random else 0] for own in (self.data.spans[i] for i in numbers)]
        first, sequences = torch.zeros_like(rows), []
        for i, number in enumerate(numbers):
            question = self.data.questions[number][: self.max_question]
            width = self.window if random else self.max_tokens - len(question) - SPECIAL
            for j, row in enumerate(rows[i].tolist()):
                passage = self.data.paragraphs[row].tokens if row >= 0 else ()
                start = _window(len(passage), width, spans[i] if row == gold[i] else (0, 0), random)
                first[i, j] = start
                sequences.append(joined(question, passage[start : start + width], self.tokenizer))
        tokens, types = (part.unflatten(0, tuple(rows.shape)) for part in stacked(sequences))
        inputs = Passages(tokens, types, asked.selected.scores[places], torch.tensor(numbers), rows, first)
        targets = [self._place(inputs, i, number, spans[i]) for i, number in enumerate(numbers)]
        known = torch.tensor([[place is not None] * 2 for place in targets])
        return Batch(
            inputs, torch.tensor([place or (0, 0) for place in targets]), known, supports=rows == gold[:, None]
        )

    def _rows(
        self, asked: Asked, numbers: list[int], places: np.ndarray, training: bool
    ) -> tuple[Int[Tensor, "batch passages"], Int[Tensor, " batch"]]:
        """Return the paragraphs to read, -1 for none, and the gold ones, which training never goes without."""
        rows = torch.where(asked.selected.mask, asked.selected.rows, -1)[places]
        gold = torch.tensor([self.data.squad.questions[number].paragraph for number in numbers])
        missing = (rows != gold[:, None]).all(-1)
        if training:
            rows[missing, -1] = gold[missing]
        return rows, gold

    def _place(self, inputs: Passages, row: int, number: int, span: tuple[int, int]) -> tuple[int, int] | None:
        """Where, among all places of a question, a span of its gold passage stands; None where it isn't read."""
        gold = self.data.squad.questions[number].paragraph
        for passage in (inputs.rows[row] == gold).nonzero()[:, 0].tolist():
            before = int(((inputs.types[row, passage] == 0) & (inputs.tokens[row, passage] != 0)).sum())
            start, end = (before + place - int(inputs.first[row, passage]) for place in span)
            time = inputs.tokens.shape[-1]
            if start >= before and end < time and bool(inputs.readable[row, passage, end]):
                return passage * time + start, passage * time + end
        return None


def _window(length: int, width: int, inside: tuple[int, int], random: np.random.Generator | None) -> int:
    """Return where a window begins: anywhere that has all of `inside`, if there is chance; else at the beginning."""
    if random is None or length <= width:
        return 0
    least, most = max(0, inside[1] + 1 - width), min(inside[0], length - width)
    return int(random.integers(min(least, most), max(least, most) + 1))


class Asked(NamedTuple):
    """A split's questions, by number, the paragraphs that each reads, and how many tokens that makes at most."""

    numbers: tuple[int, ...]
    selected: Selected
    lengths: tuple[int, ...]


@lru_cache(maxsize=8)
def asked_of(task: SquadReading, split: Split) -> Asked:
    """Return a split's questions with what was retrieved for them.

    Raises:
        ValueError: there are no more articles than validation and test take.
    """
    data, most = task.data, task.window if split == "train" else task.max_tokens
    titles = data.titles(split, task.num_validation_articles, task.num_test_articles)
    if not titles:
        raise ValueError(
            f"{task.file} has {len(data.order)} articles: SquadReading.num_validation_articles="
            f"{task.num_validation_articles} and num_test_articles={task.num_test_articles} leave none for {split}"
        )
    numbers = data.asked(titles)
    found = task.selection.select(paragraph_scores(data.squad, numbers, task.relevance, task.encoder))
    passages = [max(len(data.paragraphs[row].tokens) for row in rows) for rows in found.rows.tolist()]
    asked = [min(len(data.questions[number]), task.max_question) for number in numbers]
    return Asked(numbers, found, tuple(a + min(p, most) for a, p in zip(asked, passages, strict=True)))
