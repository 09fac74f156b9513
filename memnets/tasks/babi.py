"""bAbI: twenty kinds of questions about small stories (Weston et al. 2015, arXiv:1502.05698)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split, Story, map_tensors
from memnets.files import data_root
from memnets.tasks import babi_oracle
from memnets.tasks.babi_files import NAMES, BabiFile, check_answers, find_file, read_file
from memnets.tasks.base import Criterion, NoOracleError, Task, Texts, as_tensor, class_loss, epoch_indices, ratio

SizeName = Literal["1k", "10k"]


class Questions(NamedTuple):
    """Questions of one split as word ids; the story of each is `facts[first:last]` of the corpus.

    `supports` are the facts of the corpus that support the answer; -1 fills its rows up.
    """

    first: Int[Tensor, " questions"]
    last: Int[Tensor, " questions"]
    query: Int[Tensor, "questions words"]
    answer: Int[Tensor, " questions"]
    number: Int[Tensor, " questions"]
    supports: Int[Tensor, "questions most_supports"]


class Corpus(NamedTuple):
    """All the facts of some tasks, and their questions by split. Word 0 is padding."""

    vocabulary: tuple[str, ...]
    facts: Int[Tensor, "facts words"]
    splits: dict[Split, Questions]

    @property
    def longest_story(self) -> int:
        """Most facts told before any question."""
        return max(int((part.last - part.first).max()) for part in self.splits.values())


@dataclass(frozen=True, kw_only=True)
class Babi(Task):
    """One task, or all twenty jointly, as stories or as token sequences.

    ```
    view story     story  [mary went to the hallway . .]   query [where is mary . . . .]   target hallway
                          [. . . . . . .]                  (. is word 0: padding; empty sentences come last)
    view tokens    mary went to the hallway where is mary .
                                                     ^ the one place that counts; its target is hallway
    ```

    Training files are split into training and, at their end, validation; no story is in both. The vocabulary holds
    the lower-cased words and answers of training *and* test files; outputs are logits over all of it. An answer of
    several words (tasks 8 and 19 have such) is one token: "milk,football".

    Attributes:
        number: 1 to 20; None trains on all twenty.
        questions: training questions per task.
        view: what the model reads.
        story_size: most facts of a story that are kept, the newest ones (`dropped_facts` counts the others).
        validation_fraction: share of each training file that is held out.
        eval_number: validation and test ask only this task's questions; None asks those of all that are trained on.
        data_root: folder of the data, unless MEMNETS_DATA names it.
        verify_checksum: refuse files that differ from the published ones.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "error")
    solved: ClassVar[Criterion | None] = Criterion("error", 0.05, "min")

    number: int | None = 1
    questions: SizeName = "1k"
    view: Literal["story", "tokens"] = "story"
    story_size: int = 50
    validation_fraction: float = 0.1
    eval_number: int | None = None
    data_root: str | None = None
    verify_checksum: bool = True

    def __post_init__(self) -> None:
        if self.number is not None and not 1 <= self.number <= len(NAMES):
            raise ValueError(f"Babi.number must be 1 to {len(NAMES)}, or null for all jointly, not {self.number}")
        if self.eval_number is not None and self.eval_number not in self.numbers:
            raise ValueError(f"Babi.eval_number must be one of the tasks {self.numbers}, not {self.eval_number}")
        if self.story_size < 1:
            raise ValueError(f"Babi.story_size must be at least 1, not {self.story_size}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"Babi.validation_fraction must lie between 0 and 1, not {self.validation_fraction}")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Tasks trained on."""
        return tuple(range(1, len(NAMES) + 1)) if self.number is None else (self.number,)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words and answers by id; id 0, padding, is the empty string."""
        return self._corpus.vocabulary

    @property
    def spec(self) -> Spec:
        """Word ids in, logits over the same words out."""
        words = len(self.vocabulary)
        if self.view == "tokens":
            return Spec("tokens", words, words)
        return Spec("story", words, words, self._num_slots, self._corpus.facts.shape[1])

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled questions for training, questions in the file's order for validation and test.

        Raises:
            IndexError: validation or test has no batch `index`.
        """
        asked = self._questions(split)
        if split == "train":
            rows = as_tensor(epoch_indices(len(asked.answer), index, batch_size, seed))
        else:
            rows = torch.arange(len(asked.answer))[index * batch_size : (index + 1) * batch_size]
            if not len(rows):
                raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        asked = map_tensors(lambda column: column[rows], asked)
        rows = self._rows(asked)
        told = rows < asked.last[:, None]
        facts = self._corpus.facts
        inputs = Story(facts[rows.clamp(max=len(facts) - 1)] * told[:, :, None], asked.query)
        if self.view == "tokens":
            return _token_batch(inputs, asked.answer)
        supports = (rows[:, :, None] == asked.supports[:, None]).any(-1)
        return Batch(inputs, asked.answer, torch.ones_like(asked.answer, dtype=torch.bool), supports=supports)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches that ask every question once; training leaves an incomplete last batch out."""
        num_questions = len(self._questions(split).answer)
        return num_questions // batch_size if split == "train" else -(-num_questions // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over questions."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Shares of questions, between 0 and 1, answered right and wrong."""
        right = outputs[batch.mask].argmax(-1) == batch.targets[batch.mask]
        return {"accuracy": ratio(right.double()), "error": ratio(1 - right.double())}

    def texts(self, batch: Batch) -> Texts:
        """Return question and sentences in words; of the view `tokens` the whole sequence, and no sentences."""
        if self.view == "tokens":
            return Texts(self._words(batch.inputs[0]), (), self.vocabulary)
        sentences = [self._words(sentence) for sentence in batch.inputs.story[0]]
        return Texts(self._words(batch.inputs.query[0]), sentences, self.vocabulary)

    def oracle(self, batch: Batch) -> Tensor:
        """Follow people and things through the story (tasks 1 to 3, if `story_size` drops nothing that matters).

        Raises:
            NoOracleError: a task whose rules are not written down here.
        """
        if self.number not in babi_oracle.ANSWERABLE:
            raise NoOracleError(
                f"the oracle answers bAbI tasks {babi_oracle.ANSWERABLE}, not task.number={self.number}"
            )
        ids = {word: i for i, word in enumerate(self.vocabulary)}
        answers = [ids[babi_oracle.answer(words)] for words in self._read(batch)]
        logits = 20.0 * F.one_hot(torch.tensor(answers), len(ids))
        return logits if self.view == "story" else logits[:, None] * batch.mask[:, :, None]

    def test_sets(self) -> dict[str, Task]:
        """Return the task itself and, trained jointly, each of the twenty as `qa<number>`."""
        if self.number is not None or self.eval_number is not None:
            return {"test": self}
        return {"test": self, **{f"qa{n}": replace(self, eval_number=n) for n in self.numbers}}

    def dropped_facts(self, split: Split) -> int:
        """Count the facts, summed over a split's questions, that `story_size` leaves out."""
        asked = self._questions(split)
        return int((asked.last - asked.first - self._num_slots).clamp(min=0).sum())

    @cached_property
    def _corpus(self) -> Corpus:
        root = data_root(self.data_root)
        return load(root, self.numbers, self.questions, self.validation_fraction, self.verify_checksum)

    @cached_property
    def _num_slots(self) -> int:
        return min(self.story_size, self._corpus.longest_story)

    def _questions(self, split: Split) -> Questions:
        asked = self._corpus.splits[split]
        if split == "train" or self.eval_number is None:
            return asked
        return map_tensors(lambda column: column[asked.number == self.eval_number], asked)

    def _rows(self, asked: Questions) -> Int[Tensor, "batch sentences"]:
        """Newest facts before each question as rows of the corpus, oldest first; from `last` on they are not told."""
        oldest = torch.maximum(asked.first, asked.last - self._num_slots)
        return oldest[:, None] + torch.arange(self._num_slots)

    def _words(self, ids: Int[Tensor, " words"]) -> str:
        return " ".join(self.vocabulary[i] for i in ids.tolist() if i)

    def _read(self, batch: Batch) -> list[list[str]]:
        words = batch.inputs if self.view == "tokens" else _flatten(batch.inputs)
        return [[self.vocabulary[i] for i in row if i] for row in words.tolist()]


def _flatten(inputs: Story) -> Int[Tensor, "batch time"]:
    """Words of story and question in a row, padding last."""
    words = torch.cat([inputs.story.flatten(1), inputs.query], dim=1)
    order = torch.sort((words == 0).long(), dim=1, stable=True).indices
    return words.gather(1, order)[:, : int((words != 0).sum(1).max())]


def _token_batch(inputs: Story, answer: Int[Tensor, " batch"]) -> Batch:
    """Story and question as one sequence, answered at the question's last word."""
    tokens = _flatten(inputs)
    mask = torch.arange(tokens.shape[1]) == (tokens != 0).sum(1, keepdim=True) - 1
    return Batch(tokens, answer[:, None] * mask, mask)


@lru_cache(maxsize=4)
def load(
    root: Path, numbers: tuple[int, ...], questions: SizeName, validation_fraction: float, check_published: bool
) -> Corpus:
    """Return the tasks' files as tensors; read once per process.

    Raises:
        DataError: a file is missing, malformed or not the published one.
    """
    train = [read_file(find_file(root, questions, n, "train"), check_published) for n in numbers]
    test = [read_file(find_file(root, questions, n, "test"), check_published) for n in numbers]
    for learned, asked in zip(train, test, strict=True):
        check_answers(learned, asked)
    vocabulary = _vocabulary(train + test)
    ids = {word: i for i, word in enumerate(vocabulary)}
    width = max(len(words) for file in train + test for words in _texts(file))
    facts = _pad([fact for file in train + test for fact in file.facts], ids, width)
    num_train_facts = sum(len(file.facts) for file in train)
    parts = _tensors(train, numbers, ids, width, 0)
    held_out = torch.cat([_held_out(file, validation_fraction) for file in train])
    splits: dict[Split, Questions] = {
        "train": map_tensors(lambda column: column[~held_out], parts),
        "validation": map_tensors(lambda column: column[held_out], parts),
        "test": _tensors(test, numbers, ids, width, num_train_facts),
    }
    return Corpus(vocabulary, facts, splits)


def _tensors(files: list[BabiFile], numbers: tuple[int, ...], ids: dict[str, int], width: int, start: int) -> Questions:
    """Return the questions of `files`, whose facts begin at row `start` of the corpus."""
    rows, queries, supports = [], [], []
    for number, file in zip(numbers, files, strict=True):
        for asked in file.questions:
            rows.append((start + asked.first, start + asked.last, ids[asked.answer], number))
            queries.append(asked.words)
            supports.append([start + fact for fact in asked.supports])
        start += len(file.facts)
    first, last, answer, number_of = torch.tensor(rows).unbind(1)
    most = max(map(len, supports))
    padded = torch.tensor([facts + [-1] * (most - len(facts)) for facts in supports], dtype=torch.long)
    return Questions(first, last, _pad(queries, ids, width), answer, number_of, padded)


def _held_out(file: BabiFile, fraction: float) -> Tensor:
    """Mark the questions at the end that are held out: whole stories, `fraction` of the questions or a few more."""
    first = torch.tensor([asked.first for asked in file.questions])
    return first >= first[min(round(len(first) * (1 - fraction)), len(first) - 1)]


def _vocabulary(files: list[BabiFile]) -> tuple[str, ...]:
    words = {word for file in files for text in _texts(file) for word in text}
    answers = {asked.answer for file in files for asked in file.questions}
    return ("", *sorted(words | answers))


def _texts(file: BabiFile) -> Iterable[tuple[str, ...]]:
    yield from file.facts
    yield from (asked.words for asked in file.questions)


def _pad(texts: list[tuple[str, ...]], ids: dict[str, int], width: int) -> Int[Tensor, "texts {width}"]:
    return torch.tensor([[ids[word] for word in text] + [0] * (width - len(text)) for text in texts])
