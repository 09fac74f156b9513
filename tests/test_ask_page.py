"""The page on which a person asks a Memory Network: its JavaScript against the model, and that it stands alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from itertools import product
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from test_figures import Page

from memnets.asking.page import SCRIPT, page, page_data, write_page
from memnets.asking.reader import AskError, Reader
from memnets.contracts import Spec
from memnets.memory.attention_score import AdditiveScore, DotScore, ScaledDotScore
from memnets.models.entity_network import EntityNetwork
from memnets.models.memn2n import MemN2N

WORDS = ("", "garden", "is", "john", "mary", "the", "to", "went", "where", "garden,john")
SPEC = Spec("story", len(WORDS), len(WORDS), story_size=4, sentence_size=5)
EXAMPLE = (("mary", "went", "to", "the", "garden"), ("john", "went")), ("where", "is", "mary")
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")


def reader_of(**parts) -> Reader:
    """A network whose weights are large enough for its answers to differ."""
    model = MemN2N(SPEC, embedding_size=6, **parts)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    return Reader(model.eval(), SPEC, WORDS, "run <b>", EXAMPLE)


def stories():
    """Stories of one to four sentences of one to five words, and questions."""
    random = np.random.default_rng(0)

    def sentence():
        return tuple(WORDS[word] for word in random.integers(1, 9, random.integers(1, 6)))

    return [(tuple(sentence() for _ in range(count)), sentence()) for count in (1, 2, 3, 4)]


def run_script(reader: Reader, asked, folder: Path):
    """What the page's script says, outside a page."""
    ids = [[[[WORDS.index(word) for word in words] for words in (*story, query)]] for story, query in asked]
    data, cases = json.dumps(page_data(reader)), json.dumps([case[0] for case in ids])
    tail = f"const model = makeModel({data});\nconst cases = {cases};\n"
    tail += "console.log(JSON.stringify(cases.map((case_) => ask(model, case_.slice(0, -1), case_[case_.length - 1]))))"
    (folder / "ask.js").write_text(SCRIPT.read_text() + tail)
    assert NODE is not None
    done = subprocess.run([NODE, folder / "ask.js"], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="no JavaScript engine")
@pytest.mark.parametrize(
    ("tying", "position", "time"),
    list(product(["adjacent", "layerwise"], ["none", "paper", "centred"], [True, False])),
)
@pytest.mark.parametrize(
    "parts",
    [
        {"num_hops": 1},
        {"attention_score": ScaledDotScore, "activation": torch.nn.ReLU()},
        {"linear_start": True, "num_hops": 2},
        {"attend_empty": True},
    ],
    ids=["one_hop", "scaled_relu", "linear", "empty"],
)
def test_the_script_computes_what_the_model_does(tmp_path, tying, position, time, parts):
    reader = reader_of(weight_tying=tying, position_encoding=position, temporal_encoding=time, **parts)
    asked = stories()
    for (story, query), said in zip(asked, run_script(reader, asked, tmp_path), strict=True):
        answer = reader.ask(story, query)
        found = dict(zip(WORDS, said["probabilities"], strict=True))
        assert found == pytest.approx(dict(answer.ranking), abs=1e-5)
        np.testing.assert_allclose(said["attention"], answer.attention, atol=1e-4, rtol=1e-4)


def dump(reader: Reader, folder: Path, **typed: str) -> str:
    """The page after its script ran, as a browser holds it."""
    path = write_page(reader, folder / "page.html")
    address = f"file://{path}#{urlencode(typed)}" if typed else f"file://{path}"
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", *QUIET, f"--user-data-dir={folder / 'browser'}", "--dump-dom"]
    return subprocess.run([*words, address], capture_output=True, text=True, check=True, timeout=60).stdout


def values(text: str, part: str) -> list[float]:
    """Numbers in full, as the cells of a table of the page hold them."""
    inside = re.search(rf'(?s)<tbody id="{part}">(.*?)</tbody>', text)
    assert inside is not None
    return [float(value) for value in re.findall(r'data-value="([^"]+)"', inside[1])]


@pytest.mark.skipif(CHROMIUM is None, reason="no headless browser")
class TestInABrowser:
    def test_it_answers_its_example(self, tmp_path):
        reader = reader_of()
        text = dump(reader, tmp_path)
        answer = reader.ask(*EXAMPLE)
        said = re.search(r'<output class="answer"[^>]*>(.*?)</output>', text)[1]
        assert said == (answer.ranking[0][0] or "(no word)")
        assert values(text, "ranking") == pytest.approx([share for _, share in answer.ranking[:5]], abs=1e-5)
        np.testing.assert_allclose(values(text, "attention"), answer.attention.T.flatten(), atol=1e-5)

    def test_the_newest_sentences_of_what_is_typed_are_told(self, tmp_path):
        reader = reader_of(weight_tying="layerwise")
        told = [*EXAMPLE[0], ("garden",), ("mary", "went"), ("the", "garden"), ("john",)]
        typed = "\n\n".join(" ".join(words).upper() + "." for words in told)
        text = dump(reader, tmp_path, story=typed, question="Where is JOHN?")
        answer = reader.ask(told, ("where", "is", "john"))
        np.testing.assert_allclose(values(text, "attention"), answer.attention.T.flatten(), atol=1e-5)
        assert "the memory holds 4 sentences; left out, the oldest: 2" in text

    @pytest.mark.parametrize(
        ("story", "question", "told"),
        [
            (" ", "where is mary", "story: it is empty, tell at least one sentence"),
            ("mary went", "?", "question: there are no words in it"),
            ("mary went\nmarry <b>", "where", "line 2: it does not know “marry” (did you mean mary?), “b”"),
            ("to " * 6, "where", "line 1: a sentence has at most 5 words, this has 6"),
        ],
        ids=["no_story", "no_question", "unknown", "long"],
    )
    def test_what_cannot_be_asked_is_said(self, tmp_path, story, question, told):
        text = dump(reader_of(), tmp_path, story=story, question=question)
        problem = re.search(r'(?s)<p class="problem" id="problem">(.*?)</p>', text)[1]
        assert unescape(problem) == told
        assert re.search(r'<div id="result" hidden', text)


class TestPage:
    def test_it_fetches_nothing_and_escapes_names(self):
        text = page(reader_of())
        assert "{{" not in re.sub(r"(?s)<script.*?</script>", "", text)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|\bsrc=|fetch\(|XMLHttp", text)
        shown = Page()
        shown.feed(re.sub(r"(?s)<script.*?</script>|<input[^>]*>", "", text))
        assert shown.open == []
        assert "Ask run <b>" in shown.words

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (EntityNetwork(SPEC, 2, 3), "a page computes a MemN2N only, and this model is .*: EntityNetwork"),
            (
                MemN2N(SPEC, attention_score=AdditiveScore),
                "DotScore or ScaledDotScore, and this model by AdditiveScore",
            ),
            (MemN2N(SPEC, activation=torch.nn.Tanh()), "a ReLU after each hop or nothing, and this model has a Tanh"),
        ],
        ids=["model", "score", "activation"],
    )
    def test_other_models_are_refused_with_the_reason(self, model, message, tmp_path):
        with pytest.raises(AskError, match=message):
            write_page(Reader(model, SPEC, WORDS), tmp_path / "page.html")
        assert not list(tmp_path.iterdir())

    def test_the_scale_is_the_scores(self):
        assert page_data(reader_of(attention_score=DotScore))["scale"] == 1.0
        assert page_data(reader_of(attention_score=ScaledDotScore))["scale"] == 6**-0.5
