"""Attention scores against loops over single numbers, and the laws of the weights that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import softmax
from torch.func import functional_call
from torch.testing import assert_close

from memnets.memory.attention_score import AdditiveScore, AttentionScore, DotScore, ScaledDotScore

SCORES = [DotScore, ScaledDotScore, AdditiveScore]
every_score = pytest.mark.parametrize("kind", SCORES)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))


def problem(batch=3, slots=4, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    keys = torch.randn(batch, slots, width, generator=generator, dtype=torch.float64)
    told = torch.rand(batch, slots, generator=generator) < 0.7
    return query, keys, told


def score_by_loop(attention, query, key):
    dot = sum(u * m for u, m in zip(query, key, strict=True))
    if isinstance(attention, AdditiveScore):
        w, u, v = (layer.weight.tolist() for layer in (attention.query, attention.key, attention.combine))
        total = 0.0
        for i, factor in enumerate(v[0]):
            inner = sum(w[i][j] * query[j] for j in range(len(query))) + sum(u[i][j] * key[j] for j in range(len(key)))
            total += factor * math.tanh(inner)
        return total
    return dot / math.sqrt(len(query)) if isinstance(attention, ScaledDotScore) else dot


class TestValues:
    @every_score
    @given(shape=sizes, seed=st.integers(0, 9))
    def test_equals_a_loop_over_single_numbers(self, kind, shape, seed):
        query, keys, told = problem(*shape, seed=seed)
        attention = kind(shape[2]).double()
        scores, weights = np.zeros(told.shape), np.zeros(told.shape)
        for b in range(len(query)):
            scores[b] = [score_by_loop(attention, query[b].tolist(), key.tolist()) for key in keys[b]]
            kept = told[b].nonzero().flatten().tolist()
            weights[b, kept] = softmax(scores[b, kept]) if kept else []
        assert_close(attention.score(query, keys).detach(), torch.tensor(scores))
        assert_close(attention(query, keys, told).detach(), torch.tensor(weights))

    @every_score
    def test_gradients_match_finite_differences(self, kind):
        query, keys, told = problem()
        attention = kind(3).double()
        names = [name for name, _ in attention.named_parameters()]
        values = [value.detach().requires_grad_() for value in attention.parameters()]

        def weights(query, keys, *parameters):
            return functional_call(attention, dict(zip(names, parameters, strict=True)), (query, keys, told))

        inputs = (query.requires_grad_(), keys.requires_grad_(), *values)
        assert torch.autograd.gradcheck(weights, inputs)

    @pytest.mark.parametrize("kind", [DotScore, ScaledDotScore])
    def test_the_op_gives_the_softmax_of_the_scores(self, kind):
        query, keys, told = problem()
        attention = kind(3)
        assert_close(attention(query, keys, told), AttentionScore.forward(attention, query, keys, told))

    def test_additive_hidden_size(self):
        shapes = [tuple(weight.shape) for weight in AdditiveScore(3, hidden_size=5).parameters()]
        assert shapes == [(5, 3), (5, 3), (1, 5)]


class TestLaws:
    @every_score
    def test_linear_weights_are_the_scores_of_the_slots_told(self, kind):
        query, keys, told = problem()
        attention = kind(3).double()
        assert_close(attention.linear(query, keys, told), attention.score(query, keys) * told)

    @every_score
    @pytest.mark.parametrize("scale", [1, 1e4])
    def test_weights_are_a_distribution_over_the_slots_told(self, kind, scale):
        query, keys, told = problem(batch=20)
        weights = kind(3).double()(scale * query, scale * keys, told)
        assert (weights[~told] == 0).all()
        assert (weights >= 0).all()
        assert_close(weights.sum(1), told.any(1).double())

    @every_score
    def test_no_slot_told_gives_zeros_and_finite_gradients(self, kind):
        query, keys, told = problem()
        query.requires_grad_()
        weights = kind(3).double()(query, keys, torch.zeros_like(told))
        weights.sum().backward()
        assert (weights == 0).all()
        assert query.grad.isfinite().all()

    @every_score
    def test_weights_permute_with_the_slots(self, kind):
        query, keys, told = problem()
        attention, order = kind(3).double(), torch.tensor([2, 0, 3, 1])
        assert_close(attention(query, keys[:, order], told[:, order]), attention(query, keys, told)[:, order])

    @every_score
    def test_what_stands_in_a_masked_slot_changes_nothing(self, kind):
        query, keys, told = problem()
        attention = kind(3).double()
        others = torch.where(told[:, :, None], keys, 100.0)
        assert_close(attention(query, others, told), attention(query, keys, told))

    @every_score
    def test_low_precision(self, kind):
        query, keys, told = problem()
        attention = kind(3)
        with torch.autocast("cpu", torch.bfloat16):
            weights = attention(query.float(), keys.float(), told)
        assert_close(weights.float(), attention(query.float(), keys.float(), told), atol=0.05, rtol=0)
        assert (weights[~told] == 0).all()
