"""A trained reader, asked by a person: lines in, answers out, and clear words for what can't be asked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from babi_example import TEST, task_in, write_babi
from rich.console import Console
from tiny import script

from memnets.asking.reader import AskError, Reader, example_of
from memnets.asking.session import Session, converse, read_lines
from memnets.config import check, compose, with_defaults
from memnets.identity import run_folder
from memnets.launch import train
from memnets.models.entity_network import EntityNetwork
from memnets.models.memn2n import MemN2N

STORY = "Mary went to the garden.\nJohn moved to the hallway\nWhere is Mary?\n"


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture
def task(tmp_path):
    return task_in(write_babi(tmp_path))


@pytest.fixture
def reader(task):
    return Reader(MemN2N(task.spec), task.spec, task.vocabulary, "run", example_of(task))


@pytest.fixture
def session(reader):
    return Session(reader, Console(file=io.StringIO(), width=120, highlight=False))


def shown(session):
    return session.console.file.getvalue()


class TestReader:
    @pytest.mark.parametrize("kind", [MemN2N, EntityNetwork])
    def test_it_answers_as_the_model_does_on_the_tasks_own_batches(self, task, kind):
        model = kind(task.spec)
        reader = Reader(model, task.spec, task.vocabulary)
        batch = task.batch("test", 1, 1, 0)
        story = ["daniel went to the hallway", "John moved to the garden!", "Daniel went to the garden."]
        answer = reader.ask([reader.read(text) for text in story], reader.read("Where is Daniel?"))
        with torch.no_grad():
            probabilities, attention = model(batch.inputs)[0].double().softmax(-1), model.attention(batch.inputs)
        assert len(answer.ranking) == 14
        for word, share in answer.ranking:
            assert share == probabilities[0, task.vocabulary.index(word)]
        assert [share for _, share in answer.ranking] == sorted(probabilities[0].tolist(), reverse=True)
        assert (answer.attention is None) == (attention is None)
        assert attention is None or torch.equal(answer.attention, attention[0])
        assert answer.dropped == 0

    def test_of_a_story_longer_than_the_memory_the_newest_are_told(self, reader):
        story = [reader.read(f"{name} went to the garden") for name in ("mary", "john", "daniel", "mary", "john")]
        answer = reader.ask(story, reader.read("where is john"))
        assert (answer.story, answer.dropped) == (tuple(story[2:]), 2)
        assert answer.ranking == reader.ask(story[2:], reader.read("where is john")).ranking
        assert answer.attention.shape == (3, 3)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Marry went to the zoo", r"not in the vocabulary of 13 words: 'marry' \(did you mean mary\?\), 'zoo'$"),
            ("mary went back to the garden mary", "at most 6 words in this model's task, and this has 7"),
            (" ?! ", r"no words in '\?!': expected a sentence"),
        ],
    )
    def test_what_cannot_be_read(self, reader, text, message):
        with pytest.raises(AskError, match=message):
            reader.read(text)

    def test_answers_of_several_words_are_none_a_person_uses(self, task):
        reader = Reader(MemN2N(task.spec), task.spec, ["", "milk", "milk,football"])
        assert reader.words == ["milk"]

    def test_the_example_is_the_longest_story_of_a_few(self, reader):
        story, question = reader.example
        assert [" ".join(sentence) for sentence in story] == [
            "daniel went to the hallway",
            "john moved to the garden",
            "daniel went to the garden",
        ]
        assert question == ("where", "is", "daniel")


class TestSession:
    def test_lines_tell_and_ask(self, session):
        assert [session.take(line) for line in STORY.splitlines()] == ["sentence", "sentence", "question"]
        assert session.take("  ") == "nothing"
        assert session.story[1] == ("john", "moved", "to", "the", "hallway")
        lines = shown(session).splitlines()
        assert lines[0].startswith("where is mary? ")
        assert lines[1].count(".") == 5  # the answer and four rivals
        assert lines[2].split() == ["sentence", "hop", "1", "hop", "2", "hop", "3"]
        assert lines[3].startswith(" mary went to the garden ")
        assert sum(float(line.split()[-1]) for line in lines[3:5]) == pytest.approx(1, abs=0.011)

    def test_a_bAbI_file_is_read_as_it_is(self, session):
        assert read_lines(session, (TEST + TEST).splitlines(), "file") == 6
        assert session.story[0] == ("daniel", "went", "to", "the", "hallway")
        assert len(session.story) == 3
        assert shown(session).count("where is") == shown(session).count("right") + shown(session).count("wrong: it is")

    def test_commands(self, session):
        session.take("Mary went to the garden")
        assert [session.take(line) for line in ("/story", "/words", "/new", "/story", "/quit")][-1] == "quit"
        printed = shown(session).splitlines()
        assert printed[0] == "mary went to the garden"
        assert printed[1] == f"13 words: {' '.join(session.reader.words)}"
        assert printed[2] == "nothing is told yet"
        with pytest.raises(AskError, match=r"/help is no command: there are /new, /story, /words, /quit"):
            session.take("/help")

    def test_a_line_that_is_not_understood_changes_nothing(self, session):
        session.take("Mary went to the garden")
        with pytest.raises(AskError, match="vocabulary"):
            session.take("1 Zoe went to the garden")
        assert len(session.story) == 1

    def test_dropped_sentences_are_counted(self, session):
        for _ in range(5):
            session.take("Mary went to the garden")
        session.take("where is mary?")
        assert "the memory holds 3 sentences; left out, the oldest: 2" in shown(session)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "file: nothing is asked"),
            ("Mary went to the garden", "file: nothing is asked"),
            ("\nWhere is Mary?", "file:2: the story is empty: tell at least one sentence"),
            ("Mary went to the zoo\nWhere is Mary?", "file:1: not in the vocabulary"),
        ],
    )
    def test_files_that_ask_nothing_or_are_not_understood(self, session, text, message):
        with pytest.raises(AskError, match=message):
            read_lines(session, text.splitlines(), "file")

    def test_nothing_behind_quit_is_read(self, session):
        assert read_lines(session, [*STORY.splitlines(), "/quit", "zoo"], "file") == 1

    def test_a_conversation_goes_on_after_an_error_and_ends_with_the_input(self, session, monkeypatch):
        lines = iter(["zoo?", "where is mary?", *STORY.splitlines()])
        monkeypatch.setattr("builtins.input", lambda: next(lines, None) or (_ for _ in ()).throw(EOFError))
        converse(session)
        assert "not in the vocabulary of 13 words: 'zoo'; /words lists them" in shown(session)
        assert "the story is empty" in shown(session)
        assert "hop 3" in shown(session)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_babi(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory) -> Path:
    return trained(root, tmp_path_factory.mktemp("runs"), "experiment=memn2n_babi")


def trained(root: Path, runs: Path, *overrides: str) -> Path:
    """A run of two steps on the example's files."""
    steps = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=2", "runtime.pictures=false")
    data = (f"task.data_root={root}", "task.verify_checksum=false", f"runtime.runs_dir={runs}", "logger.progress=none")
    config = compose([*overrides, *steps, *data]).config
    check(config)
    config = with_defaults(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEMNETS_DATA", raising=False)
        assert train(config) == 0
    return run_folder(config)


class TestScript:
    def ask(self, *words: str) -> int:
        return script("ask").main(list(words))

    def test_a_story_from_a_file(self, folder, tmp_path, capsys):
        (tmp_path / "story.txt").write_text(STORY)
        assert self.ask("--story", str(tmp_path / "story.txt"), f"checkpoint={folder}", "task.story_size=50") == 0
        assert "where is mary?" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("text", "code"), [(STORY, 0), ("Mary went to the zoo.", 1), ("", 1), ("where is mary?", 1)]
    )
    def test_a_story_piped_in(self, folder, monkeypatch, capsys, text, code):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert self.ask(f"checkpoint={folder}") == code
        printed = capsys.readouterr()
        assert ("hop 3" in printed.out) == (code == 0)
        assert printed.err.startswith("error: standard input" if code else "")

    def test_typed(self, folder, monkeypatch, capsys):
        terminal = io.StringIO(STORY)
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stdin", terminal)
        assert self.ask(f"checkpoint={folder}") == 0
        assert "hop 3" in capsys.readouterr().out

    def test_words_and_help(self, folder, capsys):
        assert self.ask(f"checkpoint={folder}", "--words") == 0
        assert capsys.readouterr().out.startswith("13 words: back bathroom")
        assert self.ask("--help") == 0
        assert "Exit codes: 0 done" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["checkpoint=nowhere"], "no checkpoint at nowhere"),
            (["checkpoint={folder}", "model.hops=3"], "model.hops: unknown key"),
            (["checkpoint={folder}", "--story", "nowhere.txt"], "nowhere.txt"),
            (["checkpoint={folder}", "task.data_root=/nowhere"], "missing data"),
        ],
    )
    def test_refusals_exit_with_2(self, folder, words, message, capsys):
        assert self.ask(*(word.format(folder=folder) for word in words)) == 2
        assert message in capsys.readouterr().err

    def test_a_page(self, folder, root, tmp_path, capsys):
        assert self.ask(f"checkpoint={folder}", "--page", str(tmp_path / "ask.html")) == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / "ask.html")]
        assert "daniel went to the garden" in (tmp_path / "ask.html").read_text()
        other = trained(root, tmp_path, "experiment=entity_network_babi", "model.memory_size=2", "model.word_size=3")
        assert self.ask(f"checkpoint={other}", "--page", str(tmp_path / "other.html")) == 2
        assert "a page computes a MemN2N only" in capsys.readouterr().err
        assert not (tmp_path / "other.html").exists()

    @pytest.mark.parametrize("words", [[], ["runs/x"], ["checkpoint=a", "checkpoint=b"], ["checkpoint=a", "--stories"]])
    def test_bad_arguments_exit_with_2(self, words, capsys):
        with pytest.raises(SystemExit, match="2"):
            self.ask(*words)
        assert "usage: python scripts/ask.py checkpoint=PATH" in capsys.readouterr().err

    def test_a_model_that_reads_no_stories(self, root, tmp_path, capsys):
        other = trained(root, tmp_path, "experiment=lstm_babi", "model.hidden_size=4")
        assert self.ask(f"checkpoint={other}", "--words") == 2
        assert "its LSTM reads tokens, and only a model of stories can" in capsys.readouterr().err
