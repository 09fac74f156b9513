"""Recall, reciprocal rank and nDCG against a loop over sorted rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.retrieval.ranking import gold_ranks, ndcg_at, recall_at, reciprocal_rank


@st.composite
def judged(draw):
    """Scores of few values, so that many are equal, some rows out of reach; at least one row of each query is gold."""
    queries, rows = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    scores = [[draw(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])) for _ in range(rows)] for _ in range(queries)]
    gold = [draw(st.sets(st.integers(0, rows - 1), min_size=1)) for _ in range(queries)]
    return scores, gold


def naive(scores, gold):
    """Sort all rows, gold ones last among equals, and read off where they are."""
    order = sorted(
        (row for row in range(len(scores)) if scores[row] > -math.inf), key=lambda r: (-scores[r], r in gold)
    )
    return [place for place, row in enumerate(order, start=1) if row in gold]


@given(judged(), st.integers(1, 8))
def test_equal_to_a_loop(given, k):
    scores, gold = given
    mask = torch.tensor([[row in own for row in range(len(scores[0]))] for own in gold])
    ranks = gold_ranks(torch.tensor(scores), mask)
    expected = [naive(*each) for each in zip(scores, gold, strict=True)]
    assert [own.tolist() for own in ranks] == expected
    assert recall_at(ranks, k).tolist() == [float(any(place <= k for place in own)) for own in expected]
    assert reciprocal_rank(ranks).tolist() == pytest.approx([1 / own[0] if own else 0 for own in expected])
    gains = [sum(1 / math.log2(1 + place) for place in own if place <= k) for own in expected]
    best = [sum(1 / math.log2(1 + place) for place in range(1, min(len(own), k) + 1)) for own in gold]
    found = ndcg_at(ranks, [len(own) for own in gold], k)
    assert found.tolist() == pytest.approx([a / b for a, b in zip(gains, best, strict=True)])
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()


def test_the_best_order_is_perfect_and_no_difference_gains_nothing():
    gold = torch.tensor([[True, False, True, False]])
    best, level = (gold_ranks(scores, gold) for scores in (gold.float(), torch.zeros(1, 4)))
    assert ndcg_at(best, [2], 4).item() == recall_at(best, 1).item() == reciprocal_rank(best).item() == 1
    assert recall_at(level, 2).item() == 0
    assert level[0].tolist() == [3, 4]


def test_refuses_what_has_no_rank():
    with pytest.raises(ValueError, match="query 1 has no gold row"):
        gold_ranks(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="is no number"):
        gold_ranks(torch.tensor([[math.nan]]), torch.tensor([[True]]))
