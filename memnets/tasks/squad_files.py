"""SQuAD v1.1, read and checked: paragraphs of articles, questions, and answers that are spans of their paragraph.

```
{"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [
    {"id": ..., "question": ..., "answers": [{"text": ..., "answer_start": ...}, ...]}]}]}]}
```

Rajpurkar et al. 2016, arXiv:1606.05250. `dev-v1.1.json` may lie in a zip of its name; so may `train-v1.1.json`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from memnets.tasks.base import DataError, find_data

PUBLISHED = "https://rajpurkar.github.io/SQuAD-explorer/ (dataset, version 1.1)"
LAYOUTS = ("squad", "squad_v1.1", ".")
"""Folders below the data root in which a file may lie, in the order tried."""


class Answer(NamedTuple):
    """A span of a paragraph, as one annotator marked it: `paragraph[start : start + len(text)]`."""

    start: int
    text: str


class Question(NamedTuple):
    """A question about `paragraphs[paragraph]` of its file; `id` is the published one."""

    id: str
    text: str
    paragraph: int
    answers: tuple[Answer, ...]


class Squad(NamedTuple):
    """A file of SQuAD: paragraphs in order, the title of each one's article, and questions in order."""

    paragraphs: tuple[str, ...]
    titles: tuple[str, ...]
    questions: tuple[Question, ...]


@lru_cache(maxsize=2)
def read_squad(root: Path, name: str = "dev-v1.1", check_published: bool = True) -> Squad:
    """Return a file of SQuAD; read once per process.

    Raises:
        DataError: it is missing, malformed, not the published one, or an answer is no span of its paragraph.
    """
    path = find_data(root, tuple(f"{layout}/{name}.json{end}" for layout in LAYOUTS for end in ("", ".zip")), PUBLISHED)
    content = _content(path, f"{name}.json")
    expected = known_checksums().get(f"{name}.json")
    if check_published and expected and hashlib.sha256(content).hexdigest() != expected:
        raise DataError(f"{path}: its checksum is not the published file's: truncated or altered? Fetch it again")
    try:
        return _parsed(path, json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not in the format of SQuAD v1.1 ({error!r}): fetch it again") from None


def known_checksums() -> dict[str, str]:
    """Map the name of a published file, unpacked, to its sha256."""
    lines = Path(__file__).with_name("squad.sha256").read_text(encoding="ascii").splitlines()
    return {name: checksum for checksum, name in (line.split() for line in lines)}


def _content(path: Path, name: str) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DataError(f"{path}: not a whole zip archive with {name} ({error}): truncated? Fetch it again") from None


def _parsed(path: Path, published: Any) -> Squad:
    paragraphs: list[str] = []
    titles: list[str] = []
    questions: list[Question] = []
    for article in published["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = tuple(Answer(answer["answer_start"], answer["text"]) for answer in asked["answers"])
                question = Question(asked["id"], asked["question"], len(paragraphs), answers)
                _check_spans(path, question, paragraph["context"])
                questions.append(question)
            paragraphs.append(paragraph["context"])
            titles.append(article["title"])
    if not questions:
        raise DataError(f"{path}: no questions. Fetch it again")
    return Squad(tuple(paragraphs), tuple(titles), tuple(questions))


def _check_spans(path: Path, question: Question, context: str) -> None:
    if not question.answers:
        raise DataError(f"{path}: question {question.id} has no answer: is it SQuAD v2? Version 1.1 is expected")
    for start, text in question.answers:
        if not text or context[start : start + len(text)] != text:
            raise DataError(f"{path}: question {question.id}: {text!r} does not stand at {start} of its paragraph")
