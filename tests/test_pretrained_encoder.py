"""Encoders of BERT's family: against the network itself, text by text, and what is wrong with a folder."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import torch
from torch.testing import assert_close

from memnets.retrieval.encoder import Encoder
from memnets.retrieval.pretrained_encoder import FILES, EncoderError, PretrainedEncoder
from memnets.retrieval.tokenizer import PretrainedTokenizer

transformers = pytest.importorskip("transformers")
from bert_example import write_bert  # noqa: E402

TEXTS = ["Mary lives in Paris.", "ann plays the piano", "where?", "mary lives in london in paris in london"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def encoder(folder):
    return PretrainedEncoder(str(folder))


def one_by_one(folder, text, length=128):
    """Tokens, states and pooled vector of a text alone, by the package's own hand."""
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    network = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
    with torch.no_grad():
        states = network(**ids).last_hidden_state[0]
    mean = sum(states) / len(states)
    return ids["input_ids"][0], states, mean / mean.square().sum().sqrt()


class TestEncodings:
    @pytest.mark.parametrize("batch_size", [1, 2, 64])
    def test_equal_the_network_s_of_each_text_alone(self, folder, batch_size):
        encoded = PretrainedEncoder(str(folder), batch_size=batch_size).encode(TEXTS)
        assert encoded.states.shape == (4, 10, 16)
        for row, text in enumerate(TEXTS):
            tokens, states, vector = one_by_one(folder, text)
            count = len(tokens)
            assert encoded.tokens[row, :count].equal(tokens)
            assert_close(encoded.states[row, :count], states)
            assert_close(encoded.vectors[row], vector)
            assert encoded.mask[row].tolist() == [True] * count + [False] * (10 - count)
            assert not encoded.tokens[row, count:].any()
            assert not encoded.states[row, count:].any()

    def test_names_of_special_tokens_in_a_text_are_words(self, folder, encoder):
        text = "mary [PAD] in [SEP] paris"
        encoded, places = encoder.encode([text]), encoder.places(text)
        assert encoded.mask.all()
        assert not {0, 2, 3} & set(encoded.tokens[0, 1:-1].tolist())
        assert len(places) == encoded.tokens.shape[1]
        tokens, _ = PretrainedTokenizer(str(folder)).tokenize(text)
        assert not {0, 2, 3} & set(tokens)

    def test_encodings_of_when_they_were_none_are_of_another_encoder(self, folder, encoder):
        digest = hashlib.sha256(b"PretrainedEncoder 1 128 False")
        for path in (folder / name for name in FILES if (folder / name).exists()):
            digest.update(f" {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        assert PretrainedEncoder(str(folder)).identity != digest.hexdigest()

    def test_places_are_those_of_the_tokens(self, folder, encoder):
        vocabulary = (folder / "vocab.txt").read_text().splitlines()
        for text in [*TEXTS, "pianos"]:
            places, tokens = encoder.places(text), encoder.encode([text]).tokens[0].tolist()
            assert len(places) == len(tokens)
            for (start, end), word in zip(places, (vocabulary[token] for token in tokens), strict=True):
                said = text[start:end].lower()
                assert said == "" if word in ("[CLS]", "[SEP]") else word in (said, f"##{said}", "[UNK]")
        assert len(PretrainedEncoder(str(folder), max_tokens=5).places(TEXTS[3])) == 5

    def test_long_texts_are_cut_off(self, folder):
        encoded = PretrainedEncoder(str(folder), max_tokens=5).encode(TEXTS)
        tokens, states, vector = one_by_one(folder, TEXTS[3], length=5)
        assert encoded.tokens[3].equal(tokens)
        assert_close(encoded.states[3], states)
        assert_close(encoded.vectors[3], vector)

    def test_bfloat16_is_near(self, folder, encoder):
        rough, exact = PretrainedEncoder(str(folder), bfloat16=True).encode(TEXTS), encoder.encode(TEXTS)
        assert rough.vectors.dtype == rough.states.dtype == torch.float32
        assert not rough.vectors.equal(exact.vectors)
        assert ((rough.vectors * exact.vectors).sum(-1) > 0.99).all()

    def test_of_nothing(self, encoder):
        encoded = encoder.encode([])
        assert encoded.vectors.shape == (0, 16)
        assert encoded.states.shape == (0, 0, 16)

    def test_have_no_gradient(self, encoder):
        assert not any(part.requires_grad for part in encoder.encode(TEXTS))

    def test_meets_the_contract(self, encoder):
        assert isinstance(encoder, Encoder)
        assert encoder.size == 16

    @pytest.mark.parametrize("text", ["", "  \n"])
    def test_refuses_a_text_without_words(self, encoder, text):
        with pytest.raises(ValueError, match=r"text 1, .* has no word to encode"):
            encoder.encode(["mary", text])

    def test_refuses_what_is_not_finite(self, folder, tmp_path):
        network = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
        with torch.no_grad():
            network.embeddings.word_embeddings.weight[5, 0] = torch.nan
        copy = write_bert(tmp_path / "broken")
        network.save_pretrained(copy)
        with pytest.raises(ValueError, match=r"text 1, 'Mary lives in Paris\.', has no finite encoding"):
            PretrainedEncoder(str(copy)).encode(["ann", TEXTS[0]])


class TestIdentity:
    def test_tells_weights_and_settings_apart(self, folder, tmp_path):
        other = write_bert(tmp_path / "other", seed=1)
        same = write_bert(tmp_path / "same")
        assert PretrainedEncoder(str(same)).identity == PretrainedEncoder(str(folder), batch_size=3).identity
        kinds = [
            PretrainedEncoder(str(folder)),
            PretrainedEncoder(str(other)),
            PretrainedEncoder(str(folder), max_tokens=9),
            PretrainedEncoder(str(folder), bfloat16=True),
            PretrainedEncoder(str(write_bert(tmp_path / "words", words=["a"] * 13))),
        ]
        assert len({kind.identity for kind in kinds}) == len(kinds)

    def test_loads_no_network(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        encoder = PretrainedEncoder(str(folder))
        assert encoder.size == 16
        assert len(encoder.identity) == 64
        with pytest.raises(EncoderError, match=r"needs the package transformers .*pip install 'memnets\[retrieval\]'"):
            encoder.encode(TEXTS)


class TestFolders:
    def test_a_name_is_found_below_the_data_root(self, tmp_path, monkeypatch, folder):
        monkeypatch.setenv("MEMNETS_DATA", str(tmp_path))
        write_bert(tmp_path / "encoders" / "some" / "bert")
        assert PretrainedEncoder("some/bert").identity == PretrainedEncoder(str(folder)).identity

    def test_a_name_that_is_nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MEMNETS_DATA", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(EncoderError, match=r"no encoder 'no/such': no such folder:[^:]*encoders/no/such\nand not"):
            _ = PretrainedEncoder("no/such").identity

    def test_without_the_hub_s_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(EncoderError, match=r"no encoder 'no/such'[\s\S]*install 'memnets\[retrieval\]'"):
            _ = PretrainedEncoder("no/such").size

    def test_a_folder_without_weights(self, tmp_path):
        (write_bert(tmp_path) / "model.safetensors").unlink()
        with pytest.raises(EncoderError, match=r"has no model\.safetensors: expected"):
            _ = PretrainedEncoder(str(tmp_path)).identity

    def test_truncated_weights(self, tmp_path):
        weights = write_bert(tmp_path) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(EncoderError, match="can't be loaded"):
            PretrainedEncoder(str(tmp_path)).encode(TEXTS)

    @pytest.mark.parametrize("text", ["{", "{}", "[]"])
    def test_no_size(self, tmp_path, text):
        (write_bert(tmp_path) / "config.json").write_text(text)
        with pytest.raises(EncoderError, match="tells no hidden_size"):
            _ = PretrainedEncoder(str(tmp_path)).size

    def test_padding_that_is_a_word(self, tmp_path):
        path = write_bert(tmp_path) / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "mary"}))
        for name in ("tokenizer.json", "special_tokens_map.json"):
            (tmp_path / name).unlink()
        with pytest.raises(EncoderError, match=r"pads with token 5, and 0 means no token here"):
            PretrainedEncoder(str(tmp_path)).encode(TEXTS)

    @pytest.mark.parametrize("sizes", [{"max_tokens": 2}, {"batch_size": 0}])
    def test_sizes(self, sizes):
        with pytest.raises(ValueError, match="needs max_tokens of at least 3"):
            PretrainedEncoder("any", **sizes)
