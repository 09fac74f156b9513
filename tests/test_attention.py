"""What a memory network looked at: written by a run, read again, drawn, and as a page of shaded tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from babi_example import task_in, write_babi
from run_folders import ATTENTION, write_run
from test_figures import Page, pixels

from memnets.analysis.attention import MOST_SENTENCES, Attention, attention, read_attention, weightiest
from memnets.analysis.attention_page import attention_page
from memnets.analysis.figures import png
from memnets.analysis.report import draw_evaluation, draw_run
from memnets.analysis.runs import RunError
from memnets.models.entity_network import EntityNetwork
from memnets.models.memn2n import MemN2N
from memnets.training.trace import write_trace

WEIGHTS = np.array(ATTENTION[0]["attention"])


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return task_in(write_babi(tmp_path))


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "attention.json").write_text(json.dumps(ATTENTION))
    return read_attention(tmp_path / "attention.json")


def long_story(supports=(2, 40)):
    weights = np.full((3, 50), 0.01)
    weights[:, 10:15] = 0.1
    return Attention(("a very long sentence " * 20,) * 50, "q", "a", "a", weights, supports)


class TestFile:
    def test_it_holds_what_the_model_did_with_its_questions(self, task, tmp_path):
        model = MemN2N(task.spec, num_hops=2)
        found = read_attention(write_trace(model, task, tmp_path, torch.device("cpu")))
        assert [question.query for question in found] == ["where is daniel", "where is daniel", "where is john"]
        assert found[1].story == ("daniel went to the hallway", "john moved to the garden", "daniel went to the garden")
        assert [question.supports for question in found] == [(0,), (2,), (1,)]
        batch = task.batch("test", 0, 3, 0)
        with torch.no_grad():
            expected, logits = model.attention(batch.inputs), model(batch.inputs)[0]
        for row, question in enumerate(found):
            told = len(question.story)
            np.testing.assert_allclose(question.weights, expected[row, :, :told], rtol=1e-5)
            assert question.prediction == task.vocabulary[logits[row].argmax()]
            assert question.answer == task.vocabulary[batch.targets[row]]

    def test_a_model_without_attention_to_sentences_writes_none(self, task, tmp_path):
        model = EntityNetwork(task.spec, memory_size=2, word_size=3)
        assert write_trace(model, task, tmp_path, torch.device("cpu")) is None
        assert not (tmp_path / "attention.json").exists()

    @pytest.mark.parametrize(
        "change", [{"attention": [[1.0]]}, {"attention": []}, {"story": None}, {"query": ...}, {"supports": [2]}]
    )
    def test_a_bad_one_is_named(self, tmp_path, change):
        content = {key: value for key, value in (ATTENTION[0] | change).items() if value is not ...}
        (tmp_path / "attention.json").write_text(json.dumps([content]))
        with pytest.raises(RunError, match=r"attention\.json"):
            read_attention(tmp_path / "attention.json")

    def test_one_of_an_earlier_version_says_what_to_do(self, tmp_path):
        (tmp_path / "attention.json").write_text(json.dumps(ATTENTION[0]))
        with pytest.raises(RunError, match="evaluate the run to write it anew"):
            read_attention(tmp_path / "attention.json")


class TestFigure:
    def test_it_names_sentences_hops_facts_and_a_wrong_answer(self, shown):
        first, second = attention(shown).axes[:2]
        labels = [label.get_text() for label in first.get_yticklabels()]
        assert labels == ["Mary went to the hall", "● John went to the office"]
        assert [label.get_text() for label in first.get_xticklabels()] == ["hop 1", "hop 2", "hop 3"]
        assert first.get_title(loc="right") == "Where is John?\nhall (wrong: it is office)"
        assert second.get_title(loc="right") == "Where is Mary?\nhall (right)"
        np.testing.assert_allclose(first.collections[0].get_array(), WEIGHTS.T)

    def test_of_a_long_question_the_end_is_shown(self, shown):
        asked = replace(shown[0], query="mary went to the hall " * 30 + "where is John")
        title = attention([asked]).axes[0].get_title(loc="right").splitlines()[0]
        assert title.startswith("… ")
        assert title.endswith(" hall where is John?")
        assert 40 < len(title) <= 51

    def test_one_question_and_three(self, shown):
        for questions in (shown[:1], [*shown, shown[0]]):
            assert pixels(png(attention(questions, "three")))[..., :3].std() > 0.05

    def test_of_a_long_story_facts_and_heavy_sentences_are_drawn_in_order(self):
        rows = weightiest(long_story())
        assert len(rows) == MOST_SENTENCES
        assert {2, 40, *range(10, 15)} <= set(rows)
        assert rows == sorted(rows)
        title = attention([long_story()]).axes[0].get_title(loc="right")
        assert title.endswith(f"{50 - MOST_SENTENCES} more of less weight not shown")


class TestPage:
    def test_it_shows_every_sentence_weight_fact_and_answer_and_fetches_nothing(self, shown):
        text = attention_page(shown, "memn2n <b>")
        page = Page()
        page.feed(text)
        assert page.open == []
        assert page.links == []
        assert not re.search(r"https?:|url\(|@import|<script|<link", text)
        for told in ("memn2n <b>: attention", "Where is John?", "hall (wrong: it is office)", "John went to the"):
            assert told in page.words, told
        assert "looks most at 1 of 1 supporting facts" in page.words
        shades = [float(shade) for shade in re.findall(r"rgba\(0, 104, 168, ([\d.]+)\)", text)]
        assert shades[: WEIGHTS.size] == WEIGHTS.T.flatten().tolist()
        assert text.count('class="fact"') == 1

    def test_weights_of_a_linear_phase_keep_their_numbers(self):
        text = attention_page([Attention(("a", "b"), "q", "a", "a", np.array([[-0.5, 1.5]]))], "run")
        assert '0.00)">-0.50</td>' in text
        assert '1.00)">1.50</td>' in text

    def test_a_long_story_is_shown_whole(self):
        assert attention_page([long_story()], "run").count("<tr") == 51


def test_runs_and_evaluations_get_picture_and_page(tmp_path):
    folder = write_run(tmp_path)
    (folder / "evaluation").mkdir()
    for inside in (folder, folder / "evaluation"):
        (inside / "attention.json").write_text(json.dumps(ATTENTION))
    assert {"attention.png", "attention.html"} <= {path.name for path in draw_run(folder)}
    drawn = draw_evaluation(folder, {"test": {"error": 0.5}})
    assert [path.name for path in drawn] == ["attention.png", "attention.html"]
    assert all(path.parent.name == "evaluation" for path in drawn)
