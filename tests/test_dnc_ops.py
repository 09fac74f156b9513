"""What a DNC's step is made of: the laws of allocation, of links and of masked content."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_ops import DTYPES, draws, one_hot
from torch.testing import assert_close

from memnets.ops.allocation import allocation_weights, usage_after
from memnets.ops.content_address import content_address
from memnets.ops.linkage import follow_link, link_after, precedence_after
from memnets.ops.masked_content import masked_content_address


class TestAllocation:
    @given(draws())
    def test_together_what_is_not_in_use(self, draw):
        """All slots together get 1 - Π usage, each no more than it is free."""
        usage = draw.unit("batch", "slots")
        weights = allocation_weights(usage)
        assert_close(weights.sum(-1), 1 - usage.prod(-1))
        assert (weights >= 0).all()
        assert (weights <= 1 - usage).all()

    @given(draws(), st.data())
    def test_a_freed_slot_is_the_next_to_be_written(self, draw, data):
        slot = torch.full((draw.sizes.batch,), data.draw(st.integers(0, draw.sizes.slots - 1)))
        reads = one_hot(slot, draw.sizes.slots)[:, None].expand(-1, draw.sizes.heads, -1)
        full, gates = torch.ones_like(reads[:, 0]), torch.zeros_like(reads[:, :, 0])
        gates[:, -1] = 1
        usage, retention = usage_after(full, torch.zeros_like(full), reads, gates)
        assert usage.equal(full - reads[:, 0])
        assert retention.equal(usage)
        assert allocation_weights(usage).equal(reads[:, 0])
        assert usage_after(usage, reads[:, 0], reads, torch.zeros_like(gates))[0].equal(full)

    def test_ties_go_to_the_lower_slot(self):
        """With so many slots that a sort which isn't stable shows."""
        usage = torch.ones(1, 100)
        usage[0, torch.randperm(100)[:30]] = 0.5
        order = allocation_weights(usage).argsort(descending=True)[0, :30]
        assert order.tolist() == (usage[0] == 0.5).nonzero().flatten().tolist()

    @pytest.mark.parametrize("usage", list(product([0.0, 0.3, 1.0], repeat=3)), ids=str)
    def test_gradients_are_exact_at_the_ends(self, usage):
        """Also where factors of a product are 0."""
        usage = torch.tensor([usage]).double()
        (order,) = usage.argsort(stable=True)
        expected = torch.zeros(3, 3).double()
        for place, slot in enumerate(order):
            before = order[:place]
            expected[slot, slot] = -usage[0, before].prod()
            for other in before:
                expected[slot, other] = (1 - usage[0, slot]) * usage[0, before[before != other]].prod()
        actual = torch.autograd.functional.jacobian(allocation_weights, usage)
        assert_close(actual[0, :, 0], expected, rtol=0, atol=1e-15)

    @given(draws(), st.sampled_from([torch.float64, *DTYPES]))
    def test_usage_stays_between_0_and_1(self, draw, dtype):
        usage = torch.zeros(draw.sizes.batch, draw.sizes.slots, dtype=dtype)
        for _ in range(20):
            reads, gates = draw.weights("batch", "heads", "slots").to(dtype), draw.unit("batch", "heads").to(dtype)
            usage, _ = usage_after(usage, (8 * draw.normal("batch", "slots")).softmax(-1).to(dtype), reads, gates)
            assert ((usage >= 0) & (usage <= 1)).all()


class TestLinks:
    @given(draws())
    def test_rows_and_columns_are_at_most_distributions(self, draw):
        precedence = torch.zeros(draw.sizes.batch, draw.sizes.slots, dtype=torch.float64)
        link = torch.zeros(*precedence.shape, draw.sizes.slots, dtype=torch.float64)
        for _ in range(10):
            write = draw.unit("batch")[:, None] * (4 * draw.normal("batch", "slots")).softmax(-1)
            link, precedence = link_after(link, precedence, write), precedence_after(precedence, write)
            assert link.diagonal(dim1=1, dim2=2).eq(0).all()
            assert (link >= -1e-15).all()
            for total in (link.sum(1), link.sum(2), precedence.sum(-1)):
                assert (total <= 1 + 1e-12).all()

    @given(st.permutations(range(6)))
    def test_one_slot_after_the_other_is_followed_exactly(self, slots):
        precedence, link = torch.zeros(1, 6), torch.zeros(1, 6, 6)
        for slot in slots:
            write = one_hot(torch.tensor([slot]), 6, torch.float32)
            link, precedence = link_after(link, precedence, write), precedence_after(precedence, write)
        assert precedence.equal(write)
        reads = one_hot(torch.tensor([slots]), 6, torch.float32)
        forward, backward = follow_link(link, reads)
        nothing = torch.zeros(1, 1, 6)
        assert forward.equal(torch.cat([reads[:, 1:], nothing], 1))
        assert backward.equal(torch.cat([nothing, reads[:, :-1]], 1))

    @given(draws(torch.float32))
    def test_writing_nothing_changes_nothing(self, draw):
        precedence, link = draw.weights("batch", "slots"), draw.unit("batch", "slots", "slots")
        link.diagonal(dim1=1, dim2=2).zero_()
        nothing = torch.zeros_like(precedence)
        assert link_after(link, precedence, nothing).equal(link)
        assert precedence_after(precedence, nothing).equal(precedence)


class TestMaskedContent:
    @given(draws())
    def test_a_mask_of_ones_is_none(self, draw):
        memory, key, strength = content(draw)
        weights = masked_content_address(memory, key, strength, torch.ones_like(key))
        assert_close(weights, content_address(memory, key, strength))

    @given(draws())
    def test_what_is_masked_does_not_count(self, draw):
        memory, key, strength = content(draw)
        mask, other = draw.mask("batch", "word")[:, None].double(), draw.normal("batch", "slots", "word")
        everywhere = mask.expand_as(key)
        weights = masked_content_address(memory, key, strength, everywhere)
        changed = torch.where(mask == 1, memory, other)
        assert_close(masked_content_address(changed, key + (1 - everywhere), strength, everywhere), weights)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_masking_all_finds_all(self, dtype):
        memory, key = torch.randn(1, 4, 3, dtype=dtype), torch.randn(1, 2, 3, dtype=dtype)
        mask = torch.zeros_like(key, requires_grad=True)
        weights = masked_content_address(memory, key, torch.full((1, 2), 1e4, dtype=dtype), mask)
        assert weights.eq(0.25).all()
        weights[..., 0].sum().backward()
        assert mask.grad.isfinite().all()


def content(draw):
    memory, key = draw.normal("batch", "slots", "word"), draw.normal("batch", "heads", "word")
    return memory, key, draw.positive("batch", "heads")
