"""The reader of spans: its encoders, its heads, its rates of learning, and what it is asked by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from squad_example import write_squad
from tiny import ALONE
from torch.testing import assert_close

from memnets.config import build, check, compose, with_defaults
from memnets.contracts import Spec
from memnets.launch import make_trainer
from memnets.models.memory_reader import MemoryReader
from memnets.models.read_span import read_spans
from memnets.models.span_reader import SpanReader, same_as_asked
from memnets.models.text_encoder import PretrainedTextEncoder, SmallTextEncoder
from memnets.retrieval.passages import HIDDEN, MaskedText, Passages, SpanRules, TextPair, joined
from memnets.retrieval.tokenizer import HashedTokenizer, PretrainedTokenizer
from memnets.training.checkpoint import CheckpointError
from memnets.training.logger import RunLogger

ALL = Spec("text", 30, 3, heads=("span", "tokens", "class"))
TOKENIZER = HashedTokenizer()
QUESTION, PASSAGES = (
    "Where is the harbour?",
    ["The old harbour is in the east.", "Ann plays the piano, and Bob the harp."],
)


def encoder(size, **settings):
    return SmallTextEncoder(size, **{"d_model": 8, "num_layers": 1, "num_heads": 2} | settings)


def passages(batch=2):
    """Question 5 6, passages `6 7 8` and `9 6`, each after the question."""
    rows = torch.tensor([[1, 5, 6, 2, 6, 7, 8, 2], [1, 5, 6, 2, 9, 6, 2, 0]]).expand(batch, 2, 8)
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 0]]).expand(batch, 2, 8)
    numbers = torch.zeros(batch, 2, dtype=torch.long)
    return Passages(rows, types, torch.zeros(batch, 2), numbers[:, 0], numbers, numbers)


class TestHeads:
    def test_each_answers_its_own_inputs(self):
        model = SpanReader(ALL, encoder)
        spans = model(passages())[0]
        assert spans.shape == (2, 2, 16)
        assert (spans[0, 0] > HIDDEN).tolist() == [False] * 4 + [True] * 3 + [False] * 5 + [True] * 2 + [False] * 2
        tokens = torch.randint(1, 30, (2, 6))
        assert model(MaskedText(tokens, torch.tensor([[1, 4], [2, 3]])))[0].shape == (2, 2, 30)
        assert model(TextPair(tokens, (tokens > 9).long()))[0].shape == (2, 3)
        with pytest.raises(ValueError, match="has no head 'class': its task's spec asked for span"):
            SpanReader(Spec("text", 30, 2, heads=("span",)), encoder)(TextPair(tokens, tokens))

    def test_hidden_tokens_are_answered_where_they_were_asked_for(self):
        model = SpanReader(ALL, encoder)
        tokens = torch.randint(1, 30, (2, 6))
        one, two = (model(MaskedText(tokens, torch.tensor(asked)))[0] for asked in ([[1, 4], [2, 3]], [[4, 1], [3, 2]]))
        assert_close(one, two.flip(1))

    def test_padding_changes_nothing(self):
        model, inputs = SpanReader(ALL, encoder).eval(), passages()
        alone = Passages(*(part[:, 1:] if part.dim() > 1 else part for part in inputs))
        short = alone._replace(tokens=alone.tokens[..., :7], types=alone.types[..., :7])
        assert_close(model(short)[0], model(alone)[0][..., :7])

    def test_words_of_the_question_are_marked(self):
        rows = passages(1)
        marked = same_as_asked(rows.tokens[0], rows.types[0])
        assert marked.nonzero().tolist() == [[0, 4], [1, 5]]

    def test_too_long_a_sequence_is_refused(self):
        with pytest.raises(ValueError, match="8 tokens, but the encoder has 7 positions"):
            SpanReader(ALL, lambda size: encoder(size, max_tokens=7))(passages())


class TestPretrained:
    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory):
        pytest.importorskip("transformers")
        from bert_example import write_bert

        return str(write_bert(tmp_path_factory.mktemp("bert")))

    def test_states_are_the_package_s_own(self, folder):
        from transformers import BertModel

        own = PretrainedTextEncoder(18, folder).eval()
        inputs = passages(1)
        tokens, types = inputs.tokens[0], inputs.types[0]
        expected = BertModel.from_pretrained(folder).eval()(
            input_ids=tokens, token_type_ids=types, attention_mask=(tokens > 0).long()
        )
        assert_close(own(own.words(tokens), tokens, types), expected.last_hidden_state)

    def test_frozen_parts_get_no_gradient(self, folder):
        model = SpanReader(Spec("text", 18, 2, heads=("span",)), lambda size: PretrainedTextEncoder(size, folder, 1))
        model(passages())[0][..., 4:7].sum().backward()
        frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
        assert all("embeddings" in name or "layer.0" in name for name in frozen)
        assert any("layer.0" in name for name in frozen)
        assert all(weight.grad is not None for name, weight in model.encoder.named_parameters() if "layer.1" in name)

    def test_nonsense_is_refused(self, folder):
        with pytest.raises(ValueError, match="has 18 tokens, but the task's tokenizer 30: give both the same folder"):
            PretrainedTextEncoder(30, folder)
        with pytest.raises(ValueError, match="has 2 layers; frozen_layers can't be 3"):
            PretrainedTextEncoder(18, folder, frozen_layers=3)

    def test_its_tokenizer_says_where_tokens_stand(self, folder):
        tokenizer, text = PretrainedTokenizer(folder), "Mary lives in  London."
        tokens, places = tokenizer.tokenize(text)
        assert [text[start:end] for start, end in places] == ["Mary", "lives", "in", "London", "."]
        assert len(tokens) == 5
        assert (tokenizer.size, tokenizer.start, tokenizer.separator, tokenizer.mask) == (18, 2, 3, 4)


class TestReadSpans:
    @pytest.fixture
    @staticmethod
    def model():
        torch.manual_seed(0)
        return SpanReader(Spec("text", TOKENIZER.size, 2, heads=("span",)), encoder)

    def test_tells_text_place_and_weights_of_each_passage(self, model):
        found = read_spans(model, SpanRules(TOKENIZER), QUESTION, PASSAGES, num_spans=3)
        assert len(found) == 2
        for passage, own in zip(PASSAGES, found, strict=True):
            assert own.places == TOKENIZER.tokenize(passage).places
            assert [span.score for span in own.spans] == sorted((span.score for span in own.spans), reverse=True)
            ends = sorted((span.start, span.end) for span in own.spans)
            assert all(first[1] <= second[0] for first, second in pairwise(ends))
            assert all(passage[span.start : span.end] == span.text != "" for span in own.spans)
        assert model.training
        with pytest.raises(ValueError, match="needs passages with words"):
            read_spans(model, SpanRules(TOKENIZER), QUESTION, [""])

    def test_probabilities_are_those_of_a_loop(self, model):
        """Of all spans that the rules allow, in passages of which relevance prefers the second."""
        rules = SpanRules(TOKENIZER, max_answer=2, relevance_weight=0.5)
        asked, inside = TOKENIZER.tokenize(QUESTION).tokens, {}
        for number, (passage, relevance) in enumerate(zip(PASSAGES, (0.0, 3.0), strict=True)):
            tokens, types = (torch.tensor([[p]]) for p in joined(asked, TOKENIZER.tokenize(passage).tokens, TOKENIZER))
            nothing = torch.zeros(1, 1).long()
            logits = model.eval()(Passages(tokens, types, nothing.float(), nothing[0], nothing, nothing))[0][0]
            start, end = logits.tolist()
            for a in range(len(asked) + 2, tokens.shape[-1] - 1):
                for z in range(a, min(a + 2, tokens.shape[-1] - 1)):
                    inside[number, a, z] = math.exp(start[a] + end[z] + 0.5 * relevance)
        total, before = sum(inside.values()), len(asked) + 2
        found = read_spans(model, rules, QUESTION, PASSAGES, (0.0, 3.0))
        for number, own in enumerate(found):
            assert own.spans[0].score == pytest.approx(
                max(v for k, v in inside.items() if k[0] == number) / total, 1e-4
            )
            shares = [
                sum(v for (n, a, z), v in inside.items() if n == number and a <= before + t <= z) / total
                for t in range(len(own.places))
            ]
            assert own.weights == pytest.approx(shares, 1e-4)


TINY = [
    "experiment=squad_reading",
    "trainer.max_steps=4",
    "trainer.batch_size=2",
    "trainer.schedule.total_steps=4",
    "trainer.schedule.warmup_steps=1",
    "trainer.precision=float32",
    "logger.progress=none",
    "task.test_relevances=[]",
    "task.num_test_articles=1",
    "task.num_validation_articles=1",
    "model.encoder.d_model=8",
    "model.encoder.num_layers=1",
    "model.encoder.num_heads=2",
]


CONSTANT = (
    "trainer.schedule._target_=memnets.training.schedule.Constant",
    "~trainer.schedule.total_steps",
    "~trainer.schedule.warmup_steps",
)


def trainer(folder, data, *overrides):
    given = [f"task.data_root={data}", "task.verify_checksum=false", *overrides]
    config = compose([*TINY, *given]).config
    check(config)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = build(with_defaults(config))
    return make_trainer(experiment, folder, RunLogger(folder, experiment.logger, experiment.config), ALONE)


class TestTraining:
    @pytest.fixture(scope="class")
    @staticmethod
    def data(tmp_path_factory):
        return write_squad(tmp_path_factory.mktemp("squad"))

    @pytest.fixture(autouse=True)
    def _no_other_data(self, monkeypatch):
        monkeypatch.delenv("MEMNETS_DATA", raising=False)

    def test_the_encoder_learns_at_its_own_rate(self, tmp_path, data):
        """Adam's first step moves every weight by its rate, whatever its gradient."""
        own = trainer(tmp_path / "a", data, *CONSTANT, "optim.weight_decay=0.0")
        before = {name: weight.detach().clone() for name, weight in own.model.named_parameters()}
        own.train_step()
        moved = {name: float((w.detach() - before[name]).abs().max()) for name, w in own.model.named_parameters()}
        assert moved["heads.span.weight"] == pytest.approx(1e-3, rel=1e-2)
        assert moved["encoder.words.weight"] == pytest.approx(2e-4, rel=1e-2)

    def test_resumed_is_straight_through(self, tmp_path, data):
        straight, cut = trainer(tmp_path / "a", data), trainer(tmp_path / "b", data)
        straight.fit()
        cut.begin()
        cut.train_step()
        cut.train_step()
        cut.save()
        resumed = trainer(tmp_path / "b", data)
        resumed.load(resumed.folder / "step_00000002")
        resumed.fit()
        assert_close(resumed.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)

    def test_an_encoder_can_begin_with_another_run_s(self, tmp_path, data):
        first = trainer(tmp_path / "a", data)
        first.fit()
        given = f"trainer.initial_weights={tmp_path / 'a'}", "trainer.initial_part=encoder", "seed=5"
        second, fresh = trainer(tmp_path / "b", data, *given), trainer(tmp_path / "c", data, "seed=5")
        assert_close(second.model.encoder.state_dict(), first.model.encoder.state_dict(), rtol=0, atol=0)
        assert_close(second.model.heads.state_dict(), fresh.model.heads.state_dict(), rtol=0, atol=0)
        with pytest.raises(CheckpointError, match=r"(?s)part encoder: \d+ weights differ:.*x8 there"):
            trainer(tmp_path / "d", data, *given, "model.encoder.d_model=16")
        with pytest.raises(CheckpointError, match=r"initial_part=decoder: .* has no weights of that name"):
            trainer(tmp_path / "e", data, *given, "trainer.initial_part=decoder")


class TestMemoryReader:
    SPANS = Spec("text", 30, 2, heads=("span",))

    @pytest.mark.parametrize("written", [True, False])
    def test_knows_the_document_by_what_was_written(self, written):
        """Other words in a passage move the answer, but not where the memory is constant: the closed book."""
        model, inputs = MemoryReader(self.SPANS, encoder, num_heads=2, written=written).eval(), passages()
        other = inputs._replace(tokens=torch.where(inputs.readable, inputs.tokens + 10, inputs.tokens))
        assert model(other)[0].equal(model(inputs)[0]) != written

    def test_the_question_is_encoded_without_the_document(self):
        model, inputs = MemoryReader(self.SPANS, encoder, num_heads=2).eval(), passages()
        other = inputs._replace(tokens=torch.where(inputs.types == 1, inputs.tokens, inputs.tokens + 10))
        assert_close(model.write(other).vectors[:, 4:7], model.write(inputs).vectors[:, 4:7])
        assert not model(other)[0].equal(model(inputs)[0])

    def test_other_heads_are_refused(self):
        with pytest.raises(
            ValueError, match="MemoryReader reads texts for span, but the task asks for class and tokens too"
        ):
            MemoryReader(ALL, encoder)
