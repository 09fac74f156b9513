"""Approximate search: what it finds is right, it finds nearly all, and it follows a memory that changes."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("faiss")

from memnets.config import build, compose
from memnets.retrieval.approximate import ApproximateDense
from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.entries import Entry
from memnets.retrieval.relevance import Dense
from memnets.retrieval.vector_memory import VectorMemory

ENCODER = HashedEncoder(16)


def entries_of(numbers, kind="a"):
    return [Entry(str(number), f"{kind}{number % 50} b{number % 7} c{number}") for number in numbers]


def queries_of(*texts, **fields):
    return Queries(texts, ENCODER.encode(texts).vectors, **fields)


@pytest.fixture
def memory():
    memory = VectorMemory(ENCODER)
    memory.write(entries_of(range(3000)))
    return memory


ASKED = queries_of(*(f"a{number % 50} b{number % 7} c{number}" for number in range(0, 3000, 100)))


def test_what_it_finds_is_exact_and_nearly_all_of_the_best(memory):
    relevance = ApproximateDense(num_candidates=20, num_probes=12, exact_below=1)
    found, exact = relevance.scores(memory, ASKED), Dense().scores(memory, ASKED)
    hits = found > -math.inf
    assert (hits.sum(1) == 20).all()
    torch.testing.assert_close(found[hits], exact[hits])
    best = torch.zeros_like(hits).scatter(1, exact.topk(10).indices, True)
    assert (best & hits).sum() / best.sum() > 0.8
    assert (found.argmax(1) == torch.arange(0, 3000, 100)).all(), "each text finds itself"


def test_all_cells_find_what_dense_finds(memory):
    relevance = ApproximateDense(num_candidates=5000, num_probes=10_000, exact_below=1)
    torch.testing.assert_close(relevance.scores(memory, ASKED), Dense().scores(memory, ASKED))


def test_it_takes_vectors_of_any_precision(memory):
    relevance = ApproximateDense(exact_below=1)
    double = ASKED._replace(vectors=ASKED.vectors.double())
    torch.testing.assert_close(relevance.scores(memory, double), relevance.scores(memory, ASKED))


def test_it_follows_changes(memory):
    relevance = ApproximateDense(num_candidates=5000, num_probes=10_000, exact_below=1)
    relevance.scores(memory, ASKED)
    memory.erase([str(number) for number in range(100)])
    memory.replace(entries_of(range(100, 150), kind="x"))
    memory.write(entries_of(range(5000, 5050)))
    torch.testing.assert_close(relevance.scores(memory, ASKED), Dense().scores(memory, ASKED))
    memory.write(entries_of(range(6000, 10_000)))  # grown: cells are made anew
    wide = ApproximateDense(num_candidates=9000, num_probes=10_000, exact_below=1)
    relevance.num_candidates = 9000
    torch.testing.assert_close(relevance.scores(memory, ASKED), wide.scores(memory, ASKED))
    assert relevance._made_for == len(memory)


def test_excluded_entries_take_no_candidate_s_place(memory):
    asked = queries_of("a0 b0 c0", exclude=[["0", "1", "2"]])
    found = ApproximateDense(num_candidates=4, num_probes=12, exact_below=1).scores(memory, asked)
    assert (found[0, :3] == -math.inf).all()
    assert (found > -math.inf).sum() >= 4


def test_small_memories_are_searched_exactly(memory):
    assert ApproximateDense(num_candidates=1).scores(memory, ASKED).equal(Dense().scores(memory, ASKED))


def test_refuses_counts_that_are_not_positive():
    with pytest.raises(ValueError, match="not 0, 32 and 20000"):
        ApproximateDense(num_candidates=0)


def test_a_task_finds_by_it_what_it_finds_by_all_vectors():
    people = ["experiment=people_qa", "task.num_people=30", "task.num_validation_people=4", "task.num_test_people=8"]
    near = [
        "task/relevance=approximate",
        *(f"task.relevance.{name}" for name in ("exact_below=1", "num_probes=999", "num_candidates=999")),
    ]
    one, two = (
        build(compose([*people, *chosen]).config).task.batch("test", 0, 48, 0).inputs.block
        for chosen in (near, ["task/relevance=dense"])
    )
    torch.testing.assert_close(one.scores, two.scores)
    assert one.values.equal(two.values)
