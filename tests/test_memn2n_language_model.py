"""The Memory Network as a language model against loops over single numbers, and the laws of its window of words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from naive import softmax
from test_models import disturb
from torch.func import functional_call
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.memory.previous_words import PreviousWords
from memnets.models.memn2n_language_model import MemN2NLanguageModel, half_rectified

TOKENS = torch.tensor([[1, 0, 4, 2, 2, 5], [3, 3, 1, 0, 5, 4]])


def model_of(vocab=6, **sizes):
    sizes = {"embedding_size": 5, "memory_size": 3, "num_hops": 2} | sizes
    return disturb(MemN2NLanguageModel(Spec("tokens", vocab, vocab), **sizes)).double()


def logits_by_loop(model, tokens):
    """Every place on its own, every word embedded again for each."""
    names = ("keys.weight", "values.weight", "age_keys", "age_values", "update", "output.weight")
    keys, values, age_keys, age_values, update, answer = (
        np.array(dict(model.named_parameters())[name].tolist()) for name in names
    )
    rows = []
    for place in range(len(tokens)):
        seen = tokens[max(place - model.memory_size + 1, 0) : place + 1]
        u = np.full(len(update), 0.1)
        for _ in range(model.num_hops):
            slots = [(word, -1 - age) for age, word in enumerate(reversed(seen))]
            p = softmax([float(u @ (keys[word] + age_keys[age])) for word, age in slots])
            o = sum(weight * (values[word] + age_values[age]) for weight, (word, age) in zip(p, slots, strict=True))
            u = update @ u + o
            half = len(u) // 2
            u = np.array([*u[:half], *(max(unit, 0) for unit in u[half:])])
        rows.append(answer @ u)
    return torch.tensor(np.array(rows))


class TestValues:
    @given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(2, 6))
    def test_equals_a_loop_over_single_places(self, memory_size, time, num_hops, width, vocab):
        model = model_of(vocab, memory_size=memory_size, num_hops=num_hops, embedding_size=width)
        tokens = torch.randint(vocab, (2, time), generator=torch.Generator().manual_seed(time))
        logits, state = model(tokens)
        assert_close(logits.detach(), torch.stack([logits_by_loop(model, row) for row in tokens.tolist()]))
        remembered = F.pad(tokens + 1, (memory_size, 0))
        assert state.words.equal(remembered[:, remembered.shape[1] - memory_size + 1 :])

    def test_gradients_match_finite_differences(self):
        model = model_of(embedding_size=3)
        names, values = zip(*model.named_parameters(), strict=True)

        def logits(*parameters):
            return functional_call(model, dict(zip(names, parameters, strict=True)), (TOKENS,))[0]

        assert torch.autograd.gradcheck(logits, [value.detach().requires_grad_() for value in values])

    def test_sizes_and_start_are_the_paper_s(self):
        model = MemN2NLanguageModel(Spec("tokens", 300, 300))
        assert (model.num_hops, model.memory_size, model.update.shape) == (6, 100, (150, 150))
        assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 300 * 150 + 2 * 100 * 150 + 150**2
        for name, parameter in model.named_parameters():
            assert abs(parameter.std().item() - 0.05) < 0.002, name

    @pytest.mark.parametrize("width", [1, 4, 5])
    def test_the_second_half_is_rectified(self, width):
        units = torch.randn(7, width)
        half = width // 2
        assert half_rectified(units)[:, :half].equal(units[:, :half])
        assert half_rectified(units)[:, half:].equal(units[:, half:].relu())


class TestWindow:
    @pytest.mark.parametrize("memory_size", [1, 2, 4])
    def test_words_further_back_change_nothing(self, memory_size):
        model, changed = model_of(memory_size=memory_size), TOKENS.clone()
        changed[:, 0] = (changed[:, 0] + 1) % 6
        same = torch.isclose(model(TOKENS)[0], model(changed)[0]).all(-1)
        assert same[:, memory_size:].all()
        assert not same[:, :memory_size].any()

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_segments_of_any_length_join_to_the_whole(self, length):
        model, state, pieces = model_of(memory_size=4), None, []
        for segment in TOKENS.split(length, dim=1):
            logits, state = model(segment, state)
            pieces.append(logits)
        whole, final = model(TOKENS)
        assert_close(torch.cat(pieces, 1), whole)
        assert state.words.equal(final.words)

    def test_a_row_that_starts_anew_forgets(self):
        model = model_of()
        _, state = model(TOKENS)
        restarted = model.restart(state, torch.tensor([True, False]))
        logits = model(TOKENS, restarted)[0]
        assert_close(logits[0], model(TOKENS)[0][0])
        assert_close(logits[1], model(TOKENS, state)[0][1])
        assert not torch.allclose(logits[1], model(TOKENS)[0][1])

    def test_order_matters_by_age_alone(self):
        model, swapped = model_of(memory_size=6), TOKENS.clone()
        swapped[:, [0, 2]] = swapped[:, [2, 0]]
        last = [model(tokens)[0][0, -1] for tokens in (TOKENS, swapped)]
        assert not torch.allclose(*last)
        with torch.no_grad():
            model.age_keys.zero_()
            model.age_values.zero_()
        assert_close(*(model(tokens)[0][0, -1] for tokens in (TOKENS, swapped)))

    def test_weights_are_a_distribution_over_the_words_told(self):
        told = torch.tensor([[False, False, True, True, True]])
        keys, values, age_keys, age_values, query = (torch.randn(*size) for size in SIZES)
        found, weights = PreviousWords(keys, values, age_keys, age_values, told).hop(query)
        assert_close(weights.sum(-1), torch.ones(1, 3))
        assert (weights > 0).tolist() == [[[False, False, True], [False, True, True], [True, True, True]]]
        assert_close(found[0, 0], values[0, 2] + age_values[2])

    def test_no_word_told_gives_zeros_and_finite_gradients(self):
        parts = [torch.randn(*size, requires_grad=True) for size in SIZES]
        *memory, query = parts
        found, weights = PreviousWords(*memory, torch.zeros(1, 5, dtype=torch.bool)).hop(query)
        (found.sum() + weights.square().sum()).backward()
        assert not found.any()
        assert not weights.any()
        assert all(part.grad.isfinite().all() for part in parts)


SIZES = ((1, 5, 2), (1, 5, 2), (3, 2), (3, 2), (1, 3, 2))
"""Of keys and values of five words, ages of three slots, and queries of three places."""


class TestRefusals:
    @pytest.mark.parametrize("size", ["embedding_size", "memory_size", "num_hops"])
    def test_no_size(self, size):
        with pytest.raises(ValueError, match=rf"MemN2NLanguageModel\.{size} must be at least 1, not 0"):
            model_of(**{size: 0})
