"""The Recurrent Entity Network against loops over single numbers, and the laws of its memory: padding, length, rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_memn2n import EXAMPLE, story_of
from test_models import disturb
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import Spec, Story
from memnets.models.entity_network import EntityNetwork, EntityNetworkState
from memnets.ops.backend import use_backend
from memnets.ops.entity_memory import unit_length


def model_of(vocab=7, sentences=4, words=3, **sizes):
    """Every parameter off its initial value: slopes and masks of 1 would hide mistakes."""
    sizes = {"memory_size": 3, "word_size": 4} | sizes
    return disturb(EntityNetwork(Spec("story", vocab, vocab, sentences, words), **sizes)).double()


def phi_by_loop(model, units):
    slopes = model.memory.slopes.tolist()
    return np.array([unit if unit > 0 else slope * unit for unit, slope in zip(units, slopes, strict=True)])


def encode_by_loop(model, mask, sentence):
    total = np.zeros(mask.shape[1])
    for weights, word in zip(mask.tolist(), sentence, strict=False):
        if word:
            total += np.array(weights) * np.array(model.words.weight[word - 1].tolist())
    return total


def memory_by_loop(model, story):
    """The cells after a story, a list of lists of word ids: equations 1 to 5."""
    cells = model.memory
    keys, u, v, w = (np.array(x.tolist()) for x in (cells.keys, cells.from_memory, cells.from_key, cells.from_sentence))
    a, b = (np.array(x.tolist()) for x in (cells.gate_bias, cells.candidate_bias))
    memory = [key.copy() for key in keys]
    for sentence in story:
        if not any(sentence):
            continue
        s = encode_by_loop(model, model.story_mask, sentence)
        for j, key in enumerate(keys):
            gate = 1 / (1 + math.exp(-(s @ memory[j]) - s @ key - a[j]))
            memory[j] = memory[j] + gate * phi_by_loop(model, u @ memory[j] + v @ key + w @ s + b)
            memory[j] /= math.sqrt(sum(unit**2 for unit in memory[j]))
    return memory


def logits_by_loop(model, memory, query):
    """Equation 6."""
    q = encode_by_loop(model, model.query_mask, query)
    scores = [math.exp(q @ cell) for cell in memory]
    u = sum(score / sum(scores) * cell for score, cell in zip(scores, memory, strict=True))
    return np.array(model.answer.tolist()) @ phi_by_loop(model, q + np.array(model.from_read.tolist()) @ u)


def after(model, story):
    """The memory a story leaves."""
    return model(Story(story, torch.ones(len(story), 1, dtype=torch.long)))[1].memory


@pytest.mark.parametrize("backend", ["auto", "reference"])
class TestBackends:
    """With the op's kernel, and step by step."""

    @given(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 6)),
        st.integers(1, 4),
        st.integers(1, 5),
        st.data(),
    )
    def test_equals_a_loop_over_single_numbers(self, backend, shape, memory_size, word_size, data):
        batch, sentences, words, vocab = shape
        counts = [data.draw(st.integers(1, sentences)) for _ in range(batch)]
        lengths = [[data.draw(st.integers(1, words)) for _ in range(count + 1)] for count in counts]
        inputs = story_of(lengths, vocab, words)
        model = model_of(vocab, sentences, words, memory_size=memory_size, word_size=word_size)
        memory = [memory_by_loop(model, story) for story in inputs.story.tolist()]
        logits = [logits_by_loop(model, *row) for row in zip(memory, inputs.query.tolist(), strict=True)]
        with use_backend(backend):
            outputs, state = model(inputs)
        assert_close(state.memory.detach(), torch.tensor(np.array(memory)))
        assert_close(outputs.detach(), torch.tensor(np.array(logits)))

    def test_gradients_match_finite_differences(self, backend):
        model = model_of(memory_size=2, word_size=3)
        names, values = zip(*model.named_parameters(), strict=True)
        inputs = story_of([[3, 2, 1], [2, 2]])
        memory = torch.randn(2, 2, 3, dtype=torch.double, requires_grad=True)

        def outputs(memory, *parameters):
            given = dict(zip(names, parameters, strict=True))
            with use_backend(backend):
                logits, state = functional_call(model, given, (inputs, EntityNetworkState(memory)))
            return logits, state.memory

        assert torch.autograd.gradcheck(outputs, [memory, *(value.detach().requires_grad_() for value in values)])


def test_a_kernel_serves_the_model(monkeypatch):
    """So that `auto` above is no second run of the reference."""
    monkeypatch.delattr(EntityNetwork, "_tell_each")
    model_of()(EXAMPLE)
    with use_backend("reference"), pytest.raises(AttributeError, match="_tell_each"):
        model_of()(EXAMPLE)


class TestValues:
    def test_parameters_start_from_a_normal_distribution_and_the_questions_mask_and_slopes_at_1(self):
        model = EntityNetwork(Spec("story", 200, 200, 4, 70), memory_size=100)
        assert model.memory.keys.shape == (100, 100)
        for name, parameter in model.named_parameters():
            if name in ("memory.slopes", "query_mask"):
                assert (parameter == 1).all(), name
            else:
                error = 0.1 / math.sqrt(parameter.numel())
                assert abs(parameter.std().item() - 0.1) < 4 * error, name
                assert abs(parameter.mean().item()) < 4 * error, name

    def test_the_memory_begins_as_the_keys(self):
        model = model_of()
        for cells in model.initial_state(2).memory:
            assert torch.equal(cells, model.memory.keys)


class TestPadding:
    @pytest.mark.parametrize(("more_words", "more_sentences"), [(2, 0), (0, 3), (1, 2)])
    def test_padding_changes_nothing(self, more_words, more_sentences):
        model = model_of(words=5)
        story = F.pad(EXAMPLE.story, (0, more_words, 0, more_sentences))
        logits, state = model(Story(story, F.pad(EXAMPLE.query, (0, more_words))))
        expected, expected_state = model(EXAMPLE)
        assert_close(logits, expected)
        assert_close(state.memory, expected_state.memory)

    def test_an_empty_slot_between_sentences_changes_nothing(self):
        model, (told, _) = model_of(), story_of([[3, 2, 1, 2]])
        spread = torch.zeros(1, 7, 3, dtype=torch.long)
        spread[:, [1, 2, 5]] = told
        assert_close(after(model, spread), after(model, told))

    def test_an_empty_story_leaves_the_memory_as_it_was(self):
        model, memory = model_of(), torch.randn(2, 3, 4).double()
        _, state = model(Story(torch.zeros(2, 5, 3).long(), EXAMPLE.query[:2]), EntityNetworkState(memory))
        assert torch.equal(state.memory, memory)

    @pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
    def test_padding_stays_zero(self, make):
        model = model_of()
        optimizer = make(model.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(EXAMPLE)[0], torch.tensor([1, 2, 3])).backward()
            optimizer.step()
        assert (model.words(torch.tensor([0])) == 0).all()
        assert (model.words(torch.tensor([1])) != 0).all()


class TestLaws:
    def test_rows_of_the_memory_have_unit_length(self):
        model, one = model_of(memory_size=5, word_size=7), torch.ones(3, 5).double()
        assert not torch.allclose(model.initial_state(3).memory.norm(dim=-1), one)
        for count in range(1, 5):
            told = EXAMPLE.story[:, :count]
            assert_close(after(model, told).norm(dim=-1), one)

    def test_a_row_depends_on_itself_alone(self):
        model = model_of()
        whole, state = model(EXAMPLE)
        for row in range(len(whole)):
            alone, state_alone = model(Story(EXAMPLE.story[row : row + 1], EXAMPLE.query[row : row + 1]))
            assert_close(alone, whole[row : row + 1])
            assert_close(state_alone.memory, state.memory[row : row + 1])

    @pytest.mark.parametrize("cut", [0, 1, 3, 4])
    def test_a_story_told_in_two_parts_is_the_whole(self, cut):
        model = model_of()
        _, half = model(Story(EXAMPLE.story[:, :cut], EXAMPLE.query))
        logits, state = model(Story(EXAMPLE.story[:, cut:], EXAMPLE.query), half)
        expected, expected_state = model(EXAMPLE)
        assert_close(logits, expected)
        assert_close(state.memory, expected_state.memory)

    def test_cells_keep_apart(self):
        """A key that changes changes its own cell alone."""
        model = model_of()
        before = after(model, EXAMPLE.story)
        with torch.no_grad():
            model.memory.keys[1] += 1
        same = (after(model, EXAMPLE.story) == before).all(-1).all(0)
        assert same.tolist() == [True, False, True]

    @pytest.mark.parametrize("swap", ["sentences", "words"])
    def test_order_matters(self, swap):
        model, (story, _) = model_of(vocab=60), story_of([[3, 3, 3, 1]], vocab=60)
        swapped = story[:, [1, 0, 2]] if swap == "sentences" else story[:, :, [1, 0, 2]]
        assert not torch.allclose(after(model, story), after(model, swapped), atol=1e-6)


class TestDegenerate:
    @pytest.mark.parametrize("query", [[1, 2, 0], [0, 0, 0]])
    def test_an_empty_story_gives_finite_outputs_and_gradients(self, query):
        model = model_of()
        logits, state = model(Story(torch.zeros(2, 4, 3).long(), torch.tensor([query, query])))
        (logits.square().sum() + state.memory.sum()).backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_no_stories_give_no_answers(self):
        model = model_of()
        logits, state = model(Story(torch.zeros(0, 4, 3).long(), torch.zeros(0, 3).long()))
        assert len(logits) == len(state.memory) == 0

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1e-3])
    def test_a_memory_of_nothing_gives_finite_outputs_and_gradients(self, scale):
        """No key, no candidate: what is normalised stays near 0 for fifty sentences. In float32, which overflows."""
        model = model_of(sentences=50).float()
        with torch.no_grad():
            for parameter in model.memory.parameters():
                parameter.mul_(scale)
        inputs = story_of([[3] * 51, [2] * 31])
        logits, state = model(inputs)
        (logits.square().sum() + state.memory.square().sum()).backward()
        assert logits.isfinite().all()
        assert state.memory.isfinite().all()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name

    def test_unit_length_leaves_what_has_no_direction(self):
        vectors = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-7, 0.0], [0.0, -1e-5], [3.0, 4.0]], requires_grad=True)
        units = unit_length(vectors)
        assert_close(units, torch.tensor([[0, 0], [1e-30, 0], [1e-7, 0], [0, -1], [0.6, 0.8]]))
        units.sum().backward()
        assert_close(vectors.grad[:3], torch.ones(3, 2))
        assert vectors.grad.isfinite().all()


class TestRefusals:
    @pytest.mark.parametrize("size", ["memory_size", "word_size"])
    def test_no_size(self, size):
        with pytest.raises(ValueError, match=rf"EntityNetwork\.{size} must be at least 1, not 0"):
            model_of(**{size: 0})

    def test_sentences_longer_than_the_task_said(self):
        with pytest.raises(ValueError, match="up to 3 words, but the task's sentence_size is 2"):
            model_of(words=2)(EXAMPLE)
