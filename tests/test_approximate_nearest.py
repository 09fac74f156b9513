"""Approximate search of a datastore: exact where every cell is looked into, honest where cells are empty."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from memnets.memory.output.datastore import Datastore
from memnets.memory.output.nearest import nearest

pytest.importorskip("faiss")

from memnets.memory.output.approximate import ApproximateNearest


def keys(count=400, hidden=6, seed=0):
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3, 400])
def test_with_every_cell_it_is_exact_search(count):
    k = min(count, 5)
    found = ApproximateNearest(keys(count), num_probes=1000)(keys(50, seed=1), k)
    expected = nearest(keys(50, seed=1), keys(count), k)
    assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found[1].equal(expected[1])


def test_few_cells_miss_some_and_never_what_is_equal():
    search = ApproximateNearest(keys(), num_probes=1)
    distances, places = search(keys(), 5)
    assert places[:, 0].equal(torch.arange(400))
    assert_close(distances[:, 0], torch.zeros(400))
    assert not places.equal(nearest(keys(), keys(), 5)[1])


def test_recall_is_the_share_of_the_nearest_that_are_found():
    few, all_of_them = (Datastore(keys(), torch.arange(400), 5, num_probes=n) for n in (1, 1000))
    exact = nearest(keys(50, seed=1), keys(), 5)[1]
    found = few.read(keys(50, seed=1)[None], ()).words[0]
    shared = sum(len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)) / 250
    assert few.search_recall(keys(50, seed=1)) == pytest.approx(shared)
    assert shared < 1 == all_of_them.search_recall(keys(50, seed=1))


def test_where_cells_hold_fewer_than_k_nothing_is_recalled():
    store = Datastore(keys(16), torch.arange(16), k=16, num_probes=1)
    recalled = store.read(keys(16)[None], ())
    missing = recalled.scores == -torch.inf
    assert missing.any()
    assert not missing.all(-1).any()
    exact = Datastore(keys(16), torch.arange(16), k=16).read(keys(16)[None], ())
    assert_close(recalled.scores[..., 0], exact.scores[..., 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("probes", "k"), [(0, 3), (2, 0), (2, 401)])
def test_impossible_numbers_are_refused(probes, k):
    with pytest.raises(ValueError, match=r"num_probes must be positive|k must be between 1"):
        ApproximateNearest(keys(), probes)(keys(2), k)
