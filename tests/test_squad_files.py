"""SQuAD's files, and its scores: what is read, what is refused, and values worked out by hand."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from memnets.tasks.base import DataError
from memnets.tasks.squad_files import Answer, Question, read_squad
from memnets.tasks.squad_scores import exact_match, f1, normalised

CONTEXT = "The cat sat. Its hat was red."


def published(start=4, text="cat", **changes):
    asked = {"id": "q1", "question": "Who sat?", "answers": [{"text": text, "answer_start": start}]} | changes
    paragraphs = [{"context": CONTEXT, "qas": [asked]}, {"context": "Another.", "qas": []}]
    return {"version": "1.1", "data": [{"title": "Cats", "paragraphs": paragraphs}]}


def write(root, content, zipped=False):
    read_squad.cache_clear()
    folder = root / "squad"
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    if zipped:
        with zipfile.ZipFile(folder / "dev-v1.1.json.zip", "w") as archive:
            archive.writestr("dev-v1.1.json", text)
    else:
        (folder / "dev-v1.1.json").write_text(text)


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_what_is_there(tmp_path, zipped):
    write(tmp_path, published(), zipped)
    squad = read_squad(tmp_path, check_published=False)
    assert squad.paragraphs == (CONTEXT, "Another.")
    assert squad.titles == ("Cats", "Cats")
    assert squad.questions == (Question("q1", "Who sat?", 0, (Answer(4, "cat"),)),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (published(start=5), "question q1: 'cat' does not stand at 5"),
        (published(text=""), "question q1: '' does not stand"),
        (published(answers=[]), "question q1 has no answer: is it SQuAD v2"),
        ({"data": []}, "no questions"),
        ({"data": [{"title": "Cats"}]}, "not in the format of SQuAD v1.1 .*paragraphs"),
        ([], "not in the format"),
        ("{", "not in the format"),
    ],
)
def test_refuses_what_is_malformed(tmp_path, content, complaint):
    write(tmp_path, content)
    with pytest.raises(DataError, match=complaint):
        read_squad(tmp_path, check_published=False)


def test_refuses_what_is_not_there_or_altered(tmp_path):
    read_squad.cache_clear()
    with pytest.raises(DataError, match="missing data"):
        read_squad(tmp_path)
    write(tmp_path, published())
    with pytest.raises(DataError, match="checksum is not the published file's"):
        read_squad(tmp_path)
    (tmp_path / "squad" / "dev-v1.1.json").unlink()
    (tmp_path / "squad" / "dev-v1.1.json.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="not a whole zip archive"):
        read_squad(tmp_path)


@pytest.mark.skipif("MEMNETS_DATA" not in os.environ, reason="needs SQuAD")
def test_the_published_file():
    read_squad.cache_clear()
    squad = read_squad(Path(os.environ["MEMNETS_DATA"]))
    assert (len(squad.paragraphs), len(set(squad.titles)), len(squad.questions)) == (2067, 48, 10570)
    assert len({question.id for question in squad.questions}) == 10570
    assert squad.questions[0].answers[0] == (177, "Denver Broncos")


@pytest.mark.parametrize(
    ("answer", "references", "exact", "overlap"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a red hat", ["hat"], 0, 2 / 3),
        ("hat hat", ["hat"], 0, 2 / 3),
        ("dog", ["cat", "dog house"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["the"], 1, 0),
    ],
)
def test_scores(answer, references, exact, overlap):
    assert exact_match(answer, references) == exact
    assert f1(answer, references) == pytest.approx(overlap)


def test_normalising():
    assert normalised("An  Apple,\tand THE pear's") == "apple and pears"
