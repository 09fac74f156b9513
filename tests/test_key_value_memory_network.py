"""The key-value Memory Network against loops over single numbers; its slots and key hashing against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from naive import softmax
from test_memn2n import EXAMPLE, story_of
from test_models import disturb
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import Spec, Story
from memnets.memory.key_value import SentenceSlots, WindowSlots, hashed
from memnets.models.key_value_memory_network import KeyValueMemoryNetwork

MANY = 1000
REPRESENTATIONS = [SentenceSlots(), WindowSlots(1), WindowSlots(3), WindowSlots(5, centre_encoding=False)]
representations = pytest.mark.parametrize("representation", REPRESENTATIONS)


def model_of(representation=REPRESENTATIONS[2], vocab=7, sentences=4, words=3, **options):
    """Every parameter off its initial value: maps that are the identity would hide mistakes."""
    spec, options = Spec("story", vocab, vocab, sentences, words), {"embedding_size": 4} | options
    return disturb(KeyValueMemoryNetwork(spec, representation, **options)).double()


def slots_by_loop(representation, sentence, num_words):
    """(key, value) of every slot of a sentence, lists of word ids without padding."""
    if isinstance(representation, SentenceSlots):
        return [(sentence, sentence)]
    half, slots = representation.window_size // 2, []
    for i, word in enumerate(sentence):
        centre = word + num_words if representation.centre_encoding else word
        slots.append(([*sentence[max(i - half, 0) : i], centre, *sentence[i + 1 : i + 1 + half]], [centre]))
    return slots


def hashed_by_loop(keys, query, max_count):
    kept = []
    for key in keys:
        counts = [sum(word in other for other in keys) for word in query if word in key]
        kept.append(any(count < max_count for count in counts))
    return kept


def logits_by_loop(model, story, query):
    """The equations of section 3.1, slot by slot."""
    vectors, size = model.words.weight.tolist(), model.updates.shape[-1]

    def embed(bag):
        return sum((np.array(vectors[word - 1]) for word in bag), np.zeros(size))

    sentences = [words for sentence in story.tolist() if (words := [word for word in sentence if word])]
    slots = []
    for i, sentence in enumerate(sentences):
        when = 0 if model.ages is None else np.array(model.ages.weight[len(sentences) - i - 1].tolist())
        slots += [(key, value, when) for key, value in slots_by_loop(model.representation, sentence, model.num_words)]
    question = [word for word in query.tolist() if word]
    if model.hash_count is not None:
        bare = [[word % model.num_words for word in key] for key, _, _ in slots]
        kept = hashed_by_loop(bare, question, model.hash_count)
        slots = [slot for slot, keep in zip(slots, kept, strict=True) if keep]
    q = embed(question)
    for update in model.updates.tolist():
        weights = softmax([float(q @ (embed(key) + when)) for key, _, when in slots]) if slots else []
        found = sum((p * (embed(value) + when) for p, (_, value, when) in zip(weights, slots, strict=True)), 0 * q)
        q = np.array(update) @ (q + found)
    return np.array(model.answer.tolist()) @ q


class TestValues:
    @given(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 6)),
        st.sampled_from(REPRESENTATIONS),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from([None, 2, 3, MANY]),
        st.data(),
    )
    def test_equals_a_loop_over_single_numbers(self, shape, representation, num_hops, time, hash_count, data):
        batch, sentences, words, vocab = shape
        counts = [data.draw(st.integers(1, sentences)) for _ in range(batch)]
        lengths = [[data.draw(st.integers(1, words)) for _ in range(count + 1)] for count in counts]
        inputs = story_of(lengths, vocab, words)
        options = {"num_hops": num_hops, "temporal_encoding": time, "hash_count": hash_count}
        model = model_of(representation, vocab, sentences, words, **options)
        expected = [logits_by_loop(model, story, query) for story, query in zip(*inputs, strict=True)]
        logits, state = model(inputs)
        assert_close(logits.detach(), torch.tensor(np.array(expected)))
        assert state == () == model.initial_state(batch)

    @representations
    def test_gradients_match_finite_differences(self, representation):
        model = model_of(representation, embedding_size=2)
        names, values = zip(*model.named_parameters(), strict=True)

        def logits(*parameters):
            return functional_call(model, dict(zip(names, parameters, strict=True)), (EXAMPLE,))[0]

        assert torch.autograd.gradcheck(logits, [value.detach().requires_grad_() for value in values])

    def test_hops_begin_as_a_memory_network_s(self):
        """R starts as the identity; everything else from the normal distribution."""
        model = KeyValueMemoryNetwork(Spec("story", 200, 200, 50, 3), SentenceSlots())
        for name, parameter in model.named_parameters():
            if name == "updates":
                assert all(update.equal(torch.eye(50)) for update in parameter)
            else:
                assert abs(parameter.std().item() - 0.1) < 0.01, name


class TestSlots:
    def test_windows_as_the_docstring_draws_them(self):
        story = torch.tensor([[[1, 2, 3, 4, 5], [0, 0, 0, 0, 0], [6, 7, 0, 0, 0]]])
        keys, values = WindowSlots(5)(story, 10)
        assert keys.shape == (1, 15, 5)
        assert keys[0, 2].tolist() == [1, 2, 13, 4, 5]
        assert keys[0, 3].tolist() == [2, 3, 14, 5, 0]
        assert keys[0, 10].tolist() == [0, 0, 16, 7, 0]
        assert not keys[0, 5:10].any(), "an empty sentence"
        assert not keys[0, 12:].any(), "a centre that is no word"
        assert values[0, :, 0].tolist() == [11, 12, 13, 14, 15, *[0] * 5, 16, 17, 0, 0, 0]

    def test_without_centre_encoding_there_is_one_dictionary(self):
        plain, centred = WindowSlots(3, centre_encoding=False), WindowSlots(3)
        assert (plain.num_dictionaries, centred.num_dictionaries) == (1, 2)
        for one, two in zip(plain(EXAMPLE.story, 7), centred(EXAMPLE.story, 7), strict=True):
            assert one.equal(two % 7)

    def test_sentences_are_key_and_value(self):
        keys, values = SentenceSlots()(EXAMPLE.story, 7)
        assert keys.equal(EXAMPLE.story)
        assert values.equal(EXAMPLE.story)

    @pytest.mark.parametrize("window_size", [0, -1, 2, 8])
    def test_a_window_without_a_middle(self, window_size):
        with pytest.raises(ValueError, match=rf"window_size must be odd and at least 1, not {window_size}"):
            WindowSlots(window_size)


class TestHashing:
    @given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(2, 5))
    def test_equals_a_loop_over_words(self, data, batch, num_slots, max_count):
        def bags(*shape):
            ids = data.draw(st.lists(st.integers(0, 4), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
            return torch.tensor(ids).reshape(shape)

        keys, query = bags(batch, num_slots, 3), bags(batch, 2)
        for row, asked, kept in zip(keys.tolist(), query.tolist(), hashed(keys, query, max_count), strict=True):
            words = [[word for word in key if word] for key in row]
            assert kept.tolist() == hashed_by_loop(words, [word for word in asked if word], max_count)

    def test_padding_is_no_word_to_share(self):
        assert not hashed(torch.zeros(1, 3, 2).long(), torch.zeros(1, 2).long(), MANY).any()

    def test_a_frequent_word_is_a_stop_word(self):
        keys, query = torch.tensor([[[1, 2], [1, 3], [1, 4]]]), torch.tensor([[1, 4]])
        assert hashed(keys, query, 4).tolist() == [[True, True, True]]
        assert hashed(keys, query, 3).tolist() == [[False, False, True]]

    def test_what_is_not_hashed_does_not_count(self):
        model = model_of(SentenceSlots(), hash_count=MANY)
        story = torch.tensor([[[1, 2, 0], [3, 4, 0]]])
        other = torch.tensor([[[1, 2, 0], [5, 6, 0]]])
        query = torch.tensor([[1, 0, 0]])
        assert_close(model(Story(story, query))[0], model(Story(other, query))[0])
        assert model.attention(Story(story, query))[0].tolist() == [[1, 0]] * 2


class TestLaws:
    @representations
    @pytest.mark.parametrize(("more_words", "more_sentences"), [(2, 0), (0, 3), (1, 2)])
    def test_padding_changes_nothing(self, representation, more_words, more_sentences):
        model = model_of(representation, hash_count=3)
        story = F.pad(EXAMPLE.story, (0, more_words, 0, more_sentences))
        padded = Story(story, F.pad(EXAMPLE.query, (0, more_words)))
        assert_close(model(padded)[0], model(EXAMPLE)[0])

    @representations
    def test_attention_is_a_distribution_over_the_sentences_told(self, representation):
        model = model_of(representation)
        weights = model.attention(EXAMPLE)
        assert weights.shape == (3, 2, 4)
        assert_close(weights.sum(-1), torch.ones(3, 2).double())
        assert not (weights * (EXAMPLE.story == 0).all(-1)[:, None]).any()

    @pytest.mark.parametrize("time", [True, False])
    def test_order_of_sentences_matters_only_in_time(self, time):
        model, (story, query) = model_of(vocab=60, temporal_encoding=time), story_of([[3, 3, 3, 1]], vocab=60)
        logits, swapped = (model(Story(each, query))[0] for each in (story, story[:, [1, 0, 2]]))
        assert torch.allclose(logits, swapped) != time

    def test_a_centre_and_its_neighbours_are_told_apart_by_centre_encoding(self):
        """Windows that hold the whole sentence have the same key without it."""
        story = torch.tensor([[[1, 2, 3]]])
        weights = [
            model_of(WindowSlots(5, encoding))._hops(Story(story, story[:, 0]))[1][0][0] for encoding in (False, True)
        ]
        assert_close(weights[0], torch.full((3,), 1 / 3).double())
        assert weights[1].std() > 0.01

    @representations
    @pytest.mark.parametrize("query", [[1, 2, 0], [0, 0, 0]])
    @pytest.mark.parametrize("hash_count", [None, 2])
    def test_an_empty_story_gives_finite_outputs_and_gradients(self, representation, query, hash_count):
        model = model_of(representation, hash_count=hash_count)
        logits, _ = model(Story(torch.zeros(2, 4, 3).long(), torch.tensor([query, query])))
        logits.square().sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "value", "least"), [("num_hops", 0, 1), ("embedding_size", 0, 1), ("hash_count", 1, 2)]
    )
    def test_too_small(self, option, value, least):
        with pytest.raises(ValueError, match=rf"KeyValueMemoryNetwork\.{option} must be at least {least}, not {value}"):
            model_of(**{option: value})
