"""Integrations: against loops, blind to padding, at home with nothing retrieved, and what they refuse."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.memory.attention_score import AdditiveScore, DotScore
from memnets.memory.block import Block
from memnets.models.retrieval_reader import RetrievalReader
from memnets.retrieval.ablations import ClosedBook, ConstantMemory
from memnets.retrieval.integration import (
    Concatenate,
    CrossAttention,
    Integration,
    NearestValues,
    Pointer,
)
from memnets.retrieval.question import Question

SPEC = Spec("question", 6, 4, answer_tokens=(11, 12, 13, 14), has_values=True)
READING = {
    "concatenate": partial(Concatenate, hidden_size=8, num_heads=2),
    "cross": partial(CrossAttention, hidden_size=8),
    "hops": partial(CrossAttention, hidden_size=8, num_hops=3, gate=True, score=AdditiveScore),
    "pointer": partial(Pointer, hidden_size=8),
    "additive": partial(Pointer, hidden_size=8, score=AdditiveScore),
    "knn": partial(NearestValues, hidden_size=8),
}
BLIND = {"closed": partial(ClosedBook, hidden_size=8), "constant": partial(ConstantMemory, num_slots=3, hidden_size=8)}
reading = pytest.mark.parametrize("make", READING.values(), ids=READING)
every = pytest.mark.parametrize("make", (READING | BLIND).values(), ids=READING | BLIND)


def block_of(batch=3, items=5, seed=0):
    """Rows of two items each; some are padding, some say an answer."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, items, generator=draw) < 0.7
    mask[:, 0] = True
    tokens = torch.randint(9, 15, (batch, items), generator=draw) * mask
    tokens[:, 0] = 12
    rows = torch.randint(0, 50, (batch, items), generator=draw)
    rows[:, 1] = rows[:, 0]
    return Block(
        torch.randn(batch, items, 6, generator=draw, dtype=torch.float64) * mask[..., None],
        mask,
        torch.randn(batch, items, generator=draw, dtype=torch.float64),
        rows,
        tokens,
        torch.randint(0, 4, (batch, items), generator=draw).masked_fill(~mask, -1),
    )


def query_of(batch=3, seed=0):
    return torch.randn(batch, 6, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)


def built(make):
    module = make(SPEC).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def widened(block, count=3):
    """With padding full of nonsense at the end."""
    batch = len(block.mask)
    wide = Block(
        torch.full((batch, count, 6), 7.0).double(),
        torch.zeros(batch, count).bool(),
        torch.full((batch, count), 50.0).double(),
        torch.full((batch, count), 3),
        torch.full((batch, count), 13),
        torch.full((batch, count), 2),
    )
    return Block(*(torch.cat(parts, 1) for parts in zip(block, wide, strict=True)))


class TestEvery:
    @every
    def test_padding_changes_nothing(self, make):
        integration, query, block = built(make), query_of(), block_of()
        assert_close(integration(query, widened(block)), integration(query, block), rtol=1e-9, atol=1e-12)

    @every
    def test_nothing_retrieved_is_finite_with_its_gradients(self, make):
        integration, query = built(make), query_of()
        block = block_of()
        nothing = block._replace(mask=torch.zeros_like(block.mask))
        outputs = integration(query, nothing)
        outputs.log_softmax(-1)[:, 0].sum().backward()
        assert outputs.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in integration.parameters())

    @reading
    def test_order_of_items_does_not_matter(self, make):
        integration, query, block = built(make), query_of(), block_of()
        order = torch.randperm(5)
        shuffled = Block(*(part[:, order] for part in block))
        assert_close(integration(query, shuffled), integration(query, block), rtol=1e-9, atol=1e-12)

    @reading
    def test_reads_what_was_retrieved(self, make):
        integration, query = built(make), query_of()
        assert not torch.allclose(integration(query, block_of(seed=1)), integration(query, block_of(seed=2)))

    @pytest.mark.parametrize("make", BLIND.values(), ids=BLIND)
    def test_ablations_don_t(self, make):
        integration, query = built(make), query_of()
        assert integration(query, block_of(seed=1)).equal(integration(query, block_of(seed=2)))
        assert integration.attention(query, block_of()) is None

    @reading
    @given(seed=st.integers(0, 30), items=st.integers(1, 7))
    def test_attention_is_a_distribution_over_what_there_is(self, make, seed, items):
        torch.manual_seed(seed)
        block = block_of(items=max(items, 2), seed=seed)
        weights = built(make).attention(query_of(), block)
        assert weights.shape[0::2] == block.mask.shape
        assert (weights >= 0).all()
        assert not weights[(~block.mask)[:, None].expand_as(weights)].any()
        assert (weights.sum(-1) <= 1 + 1e-9).all()
        if make is not READING["concatenate"]:  # there the question keeps a share
            assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))

    @reading
    def test_more_relevant_gets_more_weight(self, make):
        integration, query, block = built(make), query_of(), block_of()
        for parameter_name, parameter in integration.named_parameters():
            if parameter_name.endswith("relevance"):
                torch.nn.init.ones_(parameter)
        more = block._replace(scores=block.scores + torch.tensor([4.0, 0, 0, 0, 0]))
        before, after = (integration.attention(query, each)[:, 0, 0] for each in (block, more))
        assert (after > before).all()

    @every
    def test_gradients_in_float64(self, make):
        integration, block = built(make), block_of(batch=2, items=3)
        query = query_of(2).requires_grad_()
        vectors, scores = block.vectors.requires_grad_(), block.scores.requires_grad_()
        torch.autograd.gradcheck(
            lambda q, v, s: integration(q, block._replace(vectors=v, scores=s)), (query, vectors, scores)
        )


class TestPointer:
    def test_an_answer_has_the_weight_of_all_its_tokens(self):
        pointer, query, block = built(READING["pointer"]), query_of(), block_of(items=9)
        found = pointer(query, block).softmax(-1)
        attend = pointer.attend
        for row in range(3):
            exps = {}
            for item in range(9):
                token = int(block.tokens[row, item])
                if block.mask[row, item] and token in SPEC.answer_tokens:
                    key, asked = attend.key(block.vectors[row, item]), attend.query(query[row])
                    score = (key * asked).sum() / 8**0.5 + attend.relevance * block.scores[row, item]
                    exps.setdefault(token, []).append(score.exp())
            total = sum(sum(parts) for parts in exps.values())
            expected = torch.stack([sum(exps.get(t, [torch.zeros(())])) / total for t in SPEC.answer_tokens])
            assert_close(found[row], expected.double(), rtol=1e-6, atol=1e-8)

    def test_without_an_answer_among_the_tokens_all_are_alike(self):
        block = block_of()
        found = built(READING["pointer"])(query_of(), block._replace(tokens=torch.full_like(block.tokens, 3)))
        assert_close(found.softmax(-1), torch.full((3, 4), 0.25).double())

    def test_the_score_is_what_was_chosen(self):
        torch.manual_seed(0)
        dot = Pointer(SPEC, 8, DotScore)
        torch.manual_seed(0)
        scaled = Pointer(SPEC, 8)
        query, block = query_of().float(), block_of()
        block = block._replace(vectors=block.vectors.float(), scores=block.scores.float())
        assert not torch.allclose(dot(query, block), scaled(query, block))


class TestNearestValues:
    def test_votes_by_hand(self):
        knn, query, block = built(READING["knn"]), query_of(), block_of(items=9)
        found = knn(query, block).softmax(-1)
        for row in range(3):
            entries = {}
            for item in range(9):
                if block.mask[row, item] and block.values[row, item] >= 0:
                    entries.setdefault(int(block.rows[row, item]), []).append(item)
            votes = torch.zeros(4).double()
            for items in entries.values():
                for item in items:
                    vote = (knn.strength.exp() * block.scores[row, item]).exp() / len(items)
                    votes[block.values[row, item]] += vote
            share = knn.share.sigmoid()
            expected = share * votes / votes.sum() + (1 - share) * knn.closed(query)[row].softmax(-1)
            assert_close(found[row], expected, rtol=1e-6, atol=1e-7)

    def test_an_entry_of_many_tokens_has_one_vote(self):
        knn, query, block = built(READING["knn"]), query_of(1), block_of(batch=1, items=4)
        block = block._replace(
            mask=torch.ones(1, 4).bool(),
            scores=torch.zeros(1, 4).double(),
            rows=torch.tensor([[5, 5, 5, 9]]),
            values=torch.tensor([[1, 1, 1, 2]]),
        )
        assert_close(knn.attention(query, block)[0, 0], torch.tensor([1, 1, 1, 3]).double() / 6)

    def test_without_values_the_closed_book_answers(self):
        knn, query, block = built(READING["knn"]), query_of(), block_of()
        block = block._replace(values=torch.full_like(block.values, -1))
        assert_close(knn(query, block).softmax(-1), knn.closed(query).softmax(-1), rtol=1e-6, atol=1e-8)


class TestCrossAttention:
    def test_hops_by_hand(self):
        """Each hop asks with what those before found, and adds to it through its gate."""
        cross, query, block = built(READING["hops"]), query_of(), block_of()
        for row in range(3):
            asked = cross.start(query[row])
            for attend, value, gate in zip(cross.hops, cross.values, cross.gates, strict=True):
                there = block.mask[row].nonzero()[:, 0]
                scores = []
                for i in there:
                    key, question = attend.key(block.vectors[row, i]), attend.query(asked)
                    additive = attend.score.combine(torch.tanh(attend.score.query(question) + attend.score.key(key)))
                    scores.append(additive + attend.relevance * block.scores[row, i])
                weights = torch.cat(scores).softmax(0)
                found = value(sum(w * block.vectors[row, i] for w, i in zip(weights, there, strict=True)))
                asked = asked + torch.sigmoid(gate(torch.cat([asked, found]))) * found
            expected = cross.head(torch.cat([query[row], asked]))
            assert_close(cross(query, block)[row], expected, rtol=1e-9, atol=1e-12)

    def test_a_shut_gate_lets_nothing_in(self):
        cross, query = built(READING["hops"]), query_of()
        with torch.no_grad():
            for gate in cross.gates:
                gate.weight.zero_()
                gate.bias.fill_(-1e9)
        assert cross(query, block_of(seed=1)).equal(cross(query, block_of(seed=2)))

    def test_shows_every_hop(self):
        assert built(READING["hops"]).attention(query_of(), block_of()).shape == (3, 3, 5)


class TestRefusals:
    def test_a_pointer_without_tokens(self):
        spec = Spec("question", 6, 4, has_values=True)
        with pytest.raises(ValueError, match=r"copies answers from tokens, but the task's memory gives none: choose"):
            RetrievalReader(spec, Pointer)

    def test_votes_without_values(self):
        spec = Spec("question", 6, 4, answer_tokens=(1, 2, 3, 4))
        with pytest.raises(ValueError, match="lets entries vote with their values, but the task's have none"):
            RetrievalReader(spec, NearestValues)

    def test_blocks_of_another_memory(self):
        block = block_of()._replace(tokens=None, values=None)
        for make, what in ((READING["pointer"], "tokens"), (READING["knn"], "values")):
            with pytest.raises(ValueError, match=f"needs a Block with {what}"):
                built(make)(query_of(), block)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (partial(CrossAttention, num_hops=0), "num_hops must be at least 1"),
            (partial(ConstantMemory, num_slots=0), "num_slots must be at least 1"),
            (partial(Concatenate, hidden_size=8, num_heads=3), "num_heads=3 must divide hidden_size=8"),
        ],
    )
    def test_sizes(self, make, message):
        with pytest.raises(ValueError, match=message):
            make(SPEC)

    def test_a_task_without_retrieval(self):
        with pytest.raises(ValueError, match="RetrievalReader reads question, but the task gives story"):
            RetrievalReader(Spec("story", 9, 9, 4, 3))


def test_the_reader_gives_what_its_integration_gives():
    reader = RetrievalReader(SPEC, READING["cross"]).double()
    assert isinstance(reader.integration, Integration)
    question = Question(query_of(), block_of())
    outputs, state = reader(question)
    assert state == ()
    assert outputs.equal(reader.integration(*question))
    assert reader.attention(question).equal(reader.integration.attention(*question))
