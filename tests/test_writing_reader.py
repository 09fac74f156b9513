"""A reader that writes with its memory: it answers as in its task, with what is written, and says what it looked at."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from served import WRITTEN, small_run, writing_reader

from memnets.config import build, load
from memnets.models.generating_reader import GeneratingReader
from memnets.retrieval.selection import Threshold
from memnets.serving.answer import Refused
from memnets.serving.export import export
from memnets.serving.folder import open_folder
from memnets.serving.reading import Reader
from memnets.serving.terminal import Terminal, read_lines
from memnets.tasks.people_generation import LONGEST, VOCABULARY, sentence
from memnets.tasks.people_qa import asked_facts, memory_of
from memnets.training import checkpoint
from memnets.training.run import find_checkpoint
from memnets.training.snapshot import restore_model

QUESTION, FACT = "Where does Ada live?", "Ada lives in Paris."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("runs"), *WRITTEN, "optim.lr=1.0e-6")


def answers_of_task(run):
    """Questions of the test, the ids of what is read for each, the answer by the task's own means, its probability."""
    experiment = build(load(run / "config.yaml", ()))
    restore_model(checkpoint.load(find_checkpoint(run), torch.device("cpu")), experiment.model, averaged=True)
    task, model = experiment.task, experiment.model.eval()
    facts = asked_facts(task, "test")
    batch, order = task.batch("test", 0, len(facts), 0), task.rows("test", 0, len(facts), 0).tolist()
    with torch.no_grad():
        written = model.go_on(batch.inputs, batch.mask)
    for row, number in enumerate(order):
        start = int(batch.mask[row].int().argmax())
        ids = [memory_of(task).entry(at).id for at in batch.inputs.block.rows[row].unique_consecutive().tolist()]
        yield facts[number].question, ids, sentence(written[row, start:])


class TestExported:
    @pytest.mark.parametrize("model", ["generating_reader", "generating_reader_closed_book"])
    def test_it_answers_what_the_model_does_in_its_task(self, tmp_path, run, model):
        if model != "generating_reader":
            run = small_run(tmp_path / "runs", *WRITTEN, f"model={model}", "optim.lr=1.0e-6")
        told = export(run, tmp_path / "out")
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert tuple(manifest["answers"]) == VOCABULARY
        assert told.startswith(manifest["example"])
        reader, texts = open_folder(tmp_path / "out"), set()
        for question, ids, text in answers_of_task(run):
            answer = reader.ask(question)
            assert answer.text == answer.ranking[0][0] == text
            assert [passage.id for passage in answer.passages] == ids
            shares = [passage.attention for passage in answer.passages]
            if model == "generating_reader":
                assert sum(shares) == pytest.approx(1, abs=1e-5)
                assert sum(span.weight for passage in answer.passages for span in passage.tokens) == pytest.approx(
                    1, 1e-4
                )
            else:
                assert set(shares) == {None}
            texts.add(text)
        assert len(texts) > 1 or model != "generating_reader", "the test would see no difference"

    def test_a_change_is_seen_at_once_and_after_a_restart(self, tmp_path, run):
        export(run, tmp_path / "out")
        reader = open_folder(tmp_path / "out")
        before = reader.ask(reader.example)
        (note,) = reader.write("new", f"{reader.example} yurt")
        assert note.startswith("new: the reader can't write 'yurt': it knows")
        for own in (reader, open_folder(tmp_path / "out")):
            assert "new" in [passage.id for passage in own.ask(reader.example).passages]
        reader.erase("new")
        assert reader.ask(reader.example) == open_folder(tmp_path / "out").ask(reader.example) == before


class TestReading:
    def test_ask_write_ask_erase_ask(self):
        reader = writing_reader()
        assert isinstance(reader.reader, Reader)
        assert "paris" not in reader.ask(QUESTION).text
        assert reader.write("ada", FACT) == []
        answer = reader.ask(QUESTION)
        assert answer.text == "ada lives in paris"
        first = answer.passages[0]
        assert (first.id, first.attention) == ("ada", pytest.approx(4 / 5))  # at the end it looks at nothing
        assert [FACT[span.start : span.end] for span in first.tokens] == ["Ada", "lives", "in", "Paris"]
        assert [span.weight for span in first.tokens] == pytest.approx([1 / 5] * 4)
        reader.replace("ada", "Ada lives in Beijing.")
        assert reader.ask(QUESTION).text == "ada lives in beijing"
        reader.erase("ada")
        assert "beijing" not in reader.ask(QUESTION).text

    def test_the_probability_is_that_of_all_words_and_the_end(self):
        reader = writing_reader()
        reader.write("ada", FACT)
        word = 9 - torch.logsumexp(torch.tensor([9.0] + [0.0] * 12), 0).item()
        assert reader.ask(QUESTION).ranking[0][1] == pytest.approx(torch.tensor(5 * word).exp().item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("question", "told"),
        [
            ("where does eve live", "the reader doesn't know 'eve': it knows the 11 words of its training"),
            ("a b c d e f g", "'a', 'b', 'c', 'd', 'e' and 2 more"),
            ("where does ada live in rome", "the question has 6 words: expected from 1 to 5, as in training"),
        ],
    )
    def test_what_it_was_not_trained_to_read_is_refused(self, question, told):
        with pytest.raises(Refused, match=told):
            writing_reader().ask(question)

    def test_who_writes_words_that_it_can_t_say_is_told(self):
        (note,) = writing_reader().write("eve", "Eve lives in Old Prague.")
        assert note == "eve: the reader can't write 'eve', 'old', 'prague': it knows 11 words"

    def test_where_nothing_is_found_it_answers_from_its_weights(self, tmp_path, run):
        export(run, tmp_path / "out")
        reader = open_folder(tmp_path / "out")
        reader.retrieval = reader.retrieval._replace(selection=Threshold(100.0, minimum=0))
        answer = reader.ask(reader.example)
        assert answer.passages == ()
        assert len(answer.ranking) == 1


class TestWordAttention:
    def test_is_what_the_layers_read_by_however_the_text_is_cut(self, run):
        experiment = build(load(run / "config.yaml", ()))
        inputs = experiment.task.batch("test", 0, 6, 0).inputs
        model = experiment.model.eval()
        weights = model.word_attention(inputs)
        assert weights.shape == (6, LONGEST - 1, inputs.block.mask.shape[1])
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, LONGEST - 1))
        assert not weights[~inputs.block.mask[:, None].expand_as(weights)].any()
        assert not any(memory._forward_hooks for memory in model.decoder.memories.values())
        seen = []
        for memory in model.decoder.memories.values():
            memory.register_forward_hook(lambda _, given, answer: seen.append(answer[0].weights))
        model(inputs)
        torch.testing.assert_close(weights, sum(each.mean(1) for each in seen) / len(seen))
        short = GeneratingReader(experiment.task.spec, 16, window=4).eval()
        parts = [short.word_attention(inputs._replace(words=inputs.words[:, :time])) for time in (3, LONGEST - 1)]
        torch.testing.assert_close(parts[0], parts[1][:, :3])


def test_the_terminal_shows_what_was_looked_at():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    read_lines(Terminal(writing_reader(), console), [f"/write ada: {FACT}", QUESTION], "typed")
    shown = console.file.getvalue()
    assert shown.index("ada lives in paris") < shown.index("relevance") < shown.index("attention") < shown.index("0.80")
