"""A reader of spans with its memory: it answers as in its task, with what is written, and says where it stands."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from served import SPANS, small_run, span_reader
from squad_example import write_squad
from torch.testing import assert_close

from memnets.config import build, load
from memnets.retrieval.selection import Threshold
from memnets.serving.export import export
from memnets.serving.folder import FolderError, open_folder
from memnets.serving.reading import Reader
from memnets.serving.terminal import Terminal, read_lines
from memnets.training import checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model

QUESTION, FACT = "Where does Ada Lovelace live?", "Ada Lovelace lives in New York City."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"task.data_root={write_squad(tmp_path_factory.mktemp('squad'))}"


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MEMNETS_DATA", raising=False)
        return small_run(tmp_path_factory.mktemp("runs"), *SPANS, data)


def answers_of_task(run, overrides=()):
    """Questions of the test, the ids of what is read for each, and the answer by the task's own means."""
    experiment = build(load(run / "config.yaml", overrides))
    restore_model(checkpoint.load(find_checkpoint(run), torch.device("cpu")), experiment.model, averaged=True)
    task, squad = experiment.task, experiment.task.data.squad
    batch = task.batch("test", 0, 12, 0)
    with torch.no_grad():
        answers = task.answers(experiment.model.eval()(batch.inputs)[0], batch)
    ids = [f"{title}/{1 + number % 4}" for number, title in enumerate(squad.titles)]
    for number, rows, answer in zip(batch.inputs.question.tolist(), batch.inputs.rows.tolist(), answers, strict=True):
        yield squad.questions[number].text, [ids[row] for row in rows], answer


class TestExported:
    @pytest.mark.parametrize("model", ["span_reader", "memory_reader"])
    def test_it_answers_what_the_model_does_in_its_task(self, tmp_path, run, data, model):
        if model == "memory_reader":
            run = small_run(tmp_path / "runs", *SPANS, data, "model=memory_reader", "model.num_heads=2")
        told = export(run, tmp_path / "out")
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert (manifest["format"], manifest["answers"], manifest["score_unit"]) == (1, [], 1.0)
        assert told.startswith(manifest["example"])
        reader = open_folder(tmp_path / "out")
        assert len(reader) == 64
        for question, ids, text in answers_of_task(run):
            answer = reader.ask(question)
            assert answer.text == answer.ranking[0][0] == text
            assert [passage.id for passage in answer.passages] == ids
            assert max(p.answers[0].weight for p in answer.passages) == answer.ranking[0][1]

    def test_another_relevance_and_selection_by_their_names(self, tmp_path, run):
        changed = ["task/relevance=tfidf", "task/selection=top_1"]
        export(run, tmp_path / "out", changed)
        reader = open_folder(tmp_path / "out")
        for question, ids, text in answers_of_task(run, changed):
            answer = reader.ask(question)
            assert (answer.text, {passage.id for passage in answer.passages}) == (text, set(ids))

    def test_a_change_is_seen_at_once_and_after_a_restart(self, tmp_path, run):
        export(run, tmp_path / "out")
        reader = open_folder(tmp_path / "out")
        before = reader.ask(QUESTION)
        assert reader.write("ada", FACT) == []
        for own in (reader, open_folder(tmp_path / "out")):
            passage = own.ask(QUESTION).passages[0]
            assert (passage.id, passage.text) == ("ada", FACT)
            assert all(FACT[span.start : span.end] in dict(own.ask(QUESTION).ranking) for span in passage.answers)
        reader.erase("ada")
        assert reader.ask(QUESTION) == open_folder(tmp_path / "out").ask(QUESTION) == before

    def test_one_that_must_know_the_answer_is_refused_with_what_to_choose(self, tmp_path, run):
        told = r"Oracle needs Queries\.gold.*choose another: task/relevance="
        with pytest.raises(FolderError, match=told):
            export(run, tmp_path / "out", ["task/relevance=oracle"])
        assert not (tmp_path / "out").exists()


class TestReading:
    def test_ask_write_ask_erase_ask(self):
        reader = span_reader()
        assert isinstance(reader.reader, Reader)
        assert "New York City" not in dict(reader.ask(QUESTION).ranking)
        reader.write("ada", FACT)
        answer = reader.ask(QUESTION)
        assert answer.text == "New York City"
        first = answer.passages[0]
        assert FACT[first.answers[0].start : first.answers[0].end] == "New York City"
        reader.replace("ada", "Ada Lovelace lives in Paris.")
        assert reader.ask(QUESTION).text == "Paris"
        reader.erase("ada")
        assert "Paris" not in dict(reader.ask(QUESTION).ranking)

    def test_words_have_the_probability_to_be_in_the_answer(self):
        reader = span_reader()
        reader.write("ada", FACT)
        passages = reader.ask(QUESTION).passages
        tokens = {FACT[span.start : span.end]: span.weight for span in passages[0].tokens}
        assert list(tokens) == ["Ada", "Lovelace", "lives", "in", "New", "York", "City", "."]
        assert tokens["York"] == pytest.approx(tokens["New"], abs=1e-3)
        assert tokens["New"] > 0.3 > 0.1 > tokens["lives"]
        assert passages[0].attention is None
        assert all(0 <= token.weight <= 1 for passage in passages for token in passage.tokens)

    def test_relevance_counts_as_much_as_the_rules_say(self):
        shares = []
        for weight in (0.0, 1.0):
            reader = span_reader(relevance_weight=weight)
            answer = reader.ask("Where do Bob Reed and Lee live?")
            shares.append([passage.answers[0].weight for passage in answer.passages])
        gap = answer.passages[0].relevance - answer.passages[1].relevance
        odds = [torch.tensor(own[0] / own[1]).log() for own in shares]
        assert_close(odds[1] - odds[0], torch.tensor(gap), rtol=1e-3, atol=1e-3)

    def test_where_nothing_is_found_there_is_no_answer(self):
        reader = span_reader()
        reader.retrieval = reader.retrieval._replace(selection=Threshold(100.0, minimum=0))
        assert reader.ask(QUESTION)[:2] == ("", ())

    def test_who_writes_a_long_text_is_told_how_far_it_is_read(self):
        reader = span_reader(max_tokens=30, max_question=10)
        text = "Ada Lovelace " + "and " * 14 + "so on. She lives in Prague."
        (note,) = reader.write("long", text)
        assert note.endswith(f"is read no further than “…{text[: text.index(' on')][-40:]}”")
        assert reader.write("short", "Ada Lovelace " + "and " * 13 + "so on") == []
        assert "Prague" not in dict(reader.ask("Ada Lovelace" + " where" * 8, 2).ranking)


def test_the_terminal_tells_where_the_answer_stands():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    reader = span_reader()
    read_lines(Terminal(reader, console), [f"/write ada: {FACT}", QUESTION], "typed")
    shown = console.file.getvalue()
    assert shown.index("New York City") < shown.index("relevance") < shown.index("answer")
    assert "attention" not in shown
    line = next(line for line in shown.splitlines() if "lives in" in line)
    assert "\x1b[1;4" in line
