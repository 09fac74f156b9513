"""The files of bAbI, read and checked line by line (Weston et al. 2015, arXiv:1502.05698).

```
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary?<tab>bathroom<tab>1          question, answer, ids of the facts that support it
```

Ids start at 1 with each story and rise by 1. What is not a question is a fact.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from memnets.tasks.base import DataError, find_data, verify_checksum

PUBLISHED = "https://research.facebook.com/downloads/babi/ (tasks_1-20_v1-2)"
NAMES = (
    "single-supporting-fact",
    "two-supporting-facts",
    "three-supporting-facts",
    "two-arg-relations",
    "three-arg-relations",
    "yes-no-questions",
    "counting",
    "lists-sets",
    "simple-negation",
    "indefinite-knowledge",
    "basic-coreference",
    "conjunction",
    "compound-coreference",
    "time-reasoning",
    "basic-deduction",
    "basic-induction",
    "positional-reasoning",
    "size-reasoning",
    "path-finding",
    "agents-motivations",
)
"""Names of tasks 1 to 20, as in the file names."""

LAYOUTS = ("babi", "tasks_1-20_v1-2", "babi/tasks_1-20_v1-2", ".")
"""Folders below the data root in which the data set may lie, in the order they are tried."""

LINE = re.compile(r"(\d+) (.+)")
WORD = re.compile(r"\w+")
ANSWER = re.compile(r"\w+(,\w+)*")


class Question(NamedTuple):
    """A question about `facts[first:last]` of its file.

    Attributes:
        line: line in the file, from 1.
        first: the story's first fact.
        last: one beyond the last fact told before the question.
        words: the question, lower-cased.
        answer: one token, lower-cased, also where it lists several words ("milk,football").
        supports: facts that support the answer.
    """

    line: int
    first: int
    last: int
    words: tuple[str, ...]
    answer: str
    supports: tuple[int, ...]


class BabiFile(NamedTuple):
    """All facts of a file in order, lower-cased without punctuation, and all questions about them."""

    path: Path
    facts: list[tuple[str, ...]]
    questions: list[Question]


def find_file(root: Path, questions: str, number: int, part: str) -> Path:
    """Return the file of task `number`; `part` is train or test, `questions` 1k or 10k.

    Raises:
        DataError: it lies in none of the known layouts below `root`.
    """
    name = f"{folder(questions)}/qa{number}_{NAMES[number - 1]}_{part}.txt"
    return find_data(root, tuple(str(Path(layout) / name) for layout in LAYOUTS), PUBLISHED)


def folder(questions: str) -> str:
    """Name of the folder that holds English tasks with this many training questions."""
    return "en" if questions == "1k" else f"en-{questions}"


def known_checksums() -> dict[str, str]:
    """Map `<folder>/<file name>` to the sha256 of the published file."""
    lines = Path(__file__).with_name("babi.sha256").read_text(encoding="ascii").splitlines()
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def read_file(path: Path, check_published: bool = True) -> BabiFile:
    """Read a file; with `check_published` it must equal the published one, where that one's checksum is known.

    Raises:
        DataError: the file is malformed (with its line) or not the published one.
    """
    parsed = _Parser(path).parse()
    if check_published:
        verify_checksum(path, known_checksums().get(f"{path.parent.name}/{path.name}"))
    return parsed


class _Parser:
    """One pass over a file; knows its line so that errors can say it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.id = 0
        self.first = 0
        self.fact_of_id: dict[int, int] = {}
        self.facts: list[tuple[str, ...]] = []
        self.questions: list[Question] = []

    def parse(self) -> BabiFile:
        lines = self._lines()
        for text in lines:
            self.line += 1
            self._add(text.rstrip("\r"))
        if not self.questions or self.questions[-1].line != self.line:
            raise self._error("the file ends with a fact that no question follows: truncated? Fetch it again")
        return BabiFile(self.path, self.facts, self.questions)

    def _lines(self) -> list[str]:
        content = self.path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            self.line = content.count(b"\n", 0, error.start) + 1
            raise self._error(f"not UTF-8 (byte {content[error.start]:#04x}): fetch the original again") from None
        *lines, rest = text.split("\n")
        if rest or not lines:
            self.line = len(lines) + 1
            problem = "the last line does not end in a newline: truncated?" if rest else "the file is empty:"
            raise self._error(f"{problem} Fetch it again")
        return lines

    def _add(self, text: str) -> None:
        match = LINE.fullmatch(text)
        if match is None:
            raise self._error(f"expected '<id> <text>', found {text!r}")
        self._start(int(match[1]))
        fields = match[2].split("\t")
        words = words_in(fields[0])
        if not words:
            raise self._error(f"no words in {fields[0]!r}")
        if len(fields) == 1 and not fields[0].rstrip().endswith("?"):
            self.fact_of_id[self.id] = len(self.facts)
            self.facts.append(words)
        else:
            self.questions.append(self._question(words, fields[1:]))

    def _start(self, number: int) -> None:
        """Take a line's id: the next one, or 1, with which a new story begins."""
        if number == 1:
            self.first = len(self.facts)
            self.fact_of_id = {}
        elif number != self.id + 1:
            expected = f"{self.id + 1}, or 1 for a new story" if self.id else "1"
            raise self._error(f"id {number} does not continue the story: expected {expected}")
        self.id = number

    def _question(self, words: tuple[str, ...], fields: list[str]) -> Question:
        if len(fields) != 2:
            raise self._error("a question needs its answer and the ids that support it, each after a tab: truncated?")
        if not self.fact_of_id:
            raise self._error("a question before any fact of its story")
        answer = fields[0].strip().lower()
        if not ANSWER.fullmatch(answer):
            raise self._error(f"the answer is {fields[0]!r}: expected a word, or words with commas between them")
        supports = tuple(self._support(text) for text in fields[1].split())
        return Question(self.line, self.first, len(self.facts), words, answer, supports)

    def _support(self, text: str) -> int:
        number = int(text) if text.isdecimal() else 0
        if number >= self.id:
            raise self._error(f"supporting id {number} points forward: expected the id of an earlier fact")
        if number not in self.fact_of_id:
            raise self._error(f"supporting id {text!r} is not the id of an earlier fact of this story")
        return self.fact_of_id[number]

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.path}:{self.line}: {problem}")


def words_in(text: str) -> tuple[str, ...]:
    """Return the words of a sentence, lower-cased and without punctuation."""
    return tuple(WORD.findall(text.lower()))


def check_answers(train: BabiFile, test: BabiFile) -> None:
    """Refuse a test answer with a word that the training file never uses: no model could learn to give it.

    Raises:
        DataError: with the question's line.
    """
    known = {word for fact in train.facts for word in fact}
    for question in train.questions:
        known.update(question.words, question.answer.split(","))
    for question in test.questions:
        unknown = [word for word in question.answer.split(",") if word not in known]
        if unknown:
            raise DataError(
                f"{test.path}:{question.line}: answer {question.answer!r} is out of vocabulary: {unknown[0]!r} occurs "
                f"nowhere in {train.path}. Do the two files belong together?"
            )
