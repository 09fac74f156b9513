"""Generation: with a state the same as by reading everything again at each step, for every model that reads tokens."""

from __future__ import annotations

import pytest
import torch
from test_models import CONFIGS, SPECS, accepted, build, disturb
from text_example import write_text
from tiny import script

from memnets import generate as generation
from memnets.config import compose, with_defaults
from memnets.contracts import Spec
from memnets.generate import Wanted, generate, generate_text
from memnets.identity import run_folder
from memnets.launch import train
from memnets.models.lstm import LSTM
from memnets.tasks.text_tokens import Bytes, Words
from memnets.trained import read_language_model

READERS = [pytest.param(path, id=path.stem) for path in CONFIGS if "tokens" in accepted(path)]
VOCABULARY = ("<eos>", "<unk>", "the", "cat", "sat")


def prompt_of(batch=3, time=5):
    return torch.randint(SPECS["tokens"].input_size, (batch, time), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a moment on a small text."""
    root = write_text(tmp_path_factory.mktemp("text"))
    words = ["model=lstm", "model.hidden_size=8", "task=language_modelling", f"task.data_root={root}"]
    words += ["task.segment_length=9", "trainer.batch_size=4", "trainer.max_steps=2", "logger.progress=none"]
    words += [f"runtime.runs_dir={tmp_path_factory.mktemp('runs')}", "runtime.pictures=false", "runtime.device=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEMNETS_DATA", raising=False)
        config = with_defaults(compose(words).config)
        assert train(config) == 0
    return run_folder(config)


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


class TestGenerate:
    @pytest.mark.parametrize("path", READERS)
    def test_with_a_state_equals_reading_everything_again(self, path):
        model, tokens = disturb(build(path, "tokens")).double().eval(), prompt_of()
        if model.head.bias is not None:
            torch.nn.init.zeros_(model.head.bias)  # or it says the same whatever it has read
        found, forgetful = generate(model, tokens, 20, temperature=0.0), tokens
        while tokens.shape[1] < 25:
            with torch.no_grad():
                tokens = torch.cat([tokens, model(tokens)[0][:, -1:].argmax(-1)], dim=1)
                forgetful = torch.cat([forgetful, model(forgetful[:, -1:])[0].argmax(-1)], dim=1)
        assert found.equal(tokens[:, 5:])
        assert not found.equal(forgetful[:, 5:]), "the test would see no difference"

    def test_draws_from_the_distribution_that_temperature_and_top_k_leave(self):
        model = Fixed([0.0, 1.0, 2.0, 3.0])
        drawn = generate(model, torch.zeros(40_000, 1, dtype=torch.long), 1, 0.5, 3, torch.Generator().manual_seed(0))
        expected = torch.tensor([-torch.inf, 2.0, 4.0, 6.0]).softmax(-1)
        shares = drawn.flatten().bincount(minlength=4) / 40_000
        assert shares[0] == 0
        assert (shares - expected).abs().max() < 4 * 0.5 / 200

    def test_a_seed_repeats_and_another_does_not(self):
        model = LSTM(Spec("tokens", 7, 7), 8, 1, 8)
        one, again, other = (
            generate(model, prompt_of(), 20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        assert one.equal(again)
        assert not one.equal(other)

    def test_reads_each_token_once(self):
        model = Fixed([0.0, 1.0])
        generate(model, torch.zeros(2, 5, dtype=torch.long), 4)
        assert model.read == [5, 1, 1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"prompt": torch.zeros(1, 0, dtype=torch.long)}, "the prompt is empty"),
            ({"num_tokens": 0}, "num_tokens=0"),
            ({"top_k": 0}, "top_k=0"),
            ({"temperature": -1.0}, "temperature must be a number from 0 on, not -1"),
            ({"temperature": float("nan")}, "not nan"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            generate(Fixed([0.0, 1.0]), **{"prompt": prompt_of(), "num_tokens": 1} | arguments)


class Fixed(LSTM):
    """Expects the same after anything."""

    def __init__(self, logits):
        super().__init__(Spec("tokens", 7, len(logits)), 4, 1, 4)
        self.logits, self.read = torch.tensor(logits), []

    def forward(self, inputs, state=None):
        self.read.append(inputs.shape[1])
        return self.logits.expand(*inputs.shape, -1), super().forward(inputs, state)[1]


class TestPrompts:
    @pytest.mark.parametrize(
        ("text", "ids", "unknown"),
        [
            ("", [], []),
            ("the cat", [2, 3], []),
            ("the dog\nsat", [2, 1, 0, 4], ["dog"]),
            ("the\n\n", [2, 0, 0], []),
        ],
    )
    def test_words(self, text, ids, unknown):
        assert Words().read(text, VOCABULARY) == (ids, unknown)

    def test_words_are_written_as_they_are_read(self):
        for text in ("the cat", "the cat\nsat the\n\ncat", "the\n"):
            assert Words().write(Words().read(text, VOCABULARY).ids, VOCABULARY) == text

    def test_bytes(self):
        assert Bytes().read("é\n", ()) == ([0xC3, 0xA9, 10], [])
        assert Bytes().write([0xC3, 0xA9, 10, 0xFF], ()) == "é\n�"


class TestScript:
    def test_a_line_s_end_comes_before_the_prompt(self, folder, monkeypatch):
        given = []
        plain = generation.generate

        def listening(model, prompt, *rest):
            given.extend(prompt.tolist())
            return plain(model, prompt, *rest)

        monkeypatch.setattr(generation, "generate", listening)
        generate_text(Wanted(folder, "the cat", 2))
        vocabulary = read_language_model(folder, []).task.vocabulary
        assert [[vocabulary[token] for token in row] for row in given] == [["<eos>", "the", "cat"]]

    def test_goes_on_with_the_prompt_and_names_what_it_does_not_know(self, folder, capsys):
        words = [f"checkpoint={folder}", "prompt=the zebra sat", "num_tokens=6", "seed=3"]
        assert script("generate").main(words) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith("the <unk> sat")
        assert shown.err == "not in the vocabulary, read as <unk>: zebra\n"
        generated = generate_text(Wanted(folder, "the zebra sat", 6, seed=3))
        assert shown.out == generated.text + "\n"
        assert generated.unknown == ["zebra"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["checkpoint=nowhere"], "no checkpoint at nowhere"),
            (["checkpoint={folder}", "num_tokens=many"], "num_tokens=many: expected a whole number"),
            (["checkpoint={folder}", "temperature=-1"], "temperature must be"),
            (["checkpoint={folder}", "task.tokenz=1"], "tokenz"),
        ],
    )
    def test_refusals_exit_with_2(self, folder, words, message, capsys):
        assert script("generate").main([word.format(folder=folder) for word in words]) == 2
        assert message in capsys.readouterr().err

    def test_help(self, capsys):
        assert script("generate").main(["--help"]) == 0
        assert script("generate").main([]) == 2
        assert "prompt=TEXT" in capsys.readouterr().out
