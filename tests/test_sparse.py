"""Top-k addressing, sparse access and product keys: laws, ties, and kernels at sizes beyond one of their tiles."""

from __future__ import annotations

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_ops import draws
from tiers import IF_INTERPRETED, but_for_interpreted, long_interpreted
from torch.testing import assert_close

from memnets.ops.backend import BackendError, use_backend
from memnets.ops.erase_add import erase_add, read
from memnets.ops.product_key import product_key_address, weighted_gather
from memnets.ops.sparse_access import sparse_read, sparse_write
from memnets.ops.topk_address import topk_address

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64]


def whole(*shape, dtype=torch.float64, below=3):
    """Small whole numbers of either sign: sums of their products are exact, and many are equal."""
    return torch.randint(1 - below, below, shape).to(DEVICE, dtype)


def choices(*shape, slots):
    return torch.randint(slots, shape, device=DEVICE)


def both(function, *arguments):
    """Results and gradients, of the kernel and of the reference, for the same whole gradients of the results."""
    results = []
    for backend in ("triton", "reference"):
        inputs = [each.clone().requires_grad_() if is_floating(each) else each for each in arguments]
        with use_backend(backend):
            outputs = function(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            generator = torch.Generator().manual_seed(0)
            gradient = torch.randint(-3, 4, outputs[0].shape, generator=generator).to(outputs[0])
            found = torch.autograd.grad(outputs[0], [each for each in inputs if is_floating(each)], gradient)
        results.append([*outputs, *found])
    return results


def is_floating(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def equal(pair):
    return [a.equal(b) for a, b in zip(*pair, strict=True)]


def sight(batch, time, slots, share):
    """Stamps, and the range of them that all queries of a row see: `share` of the slots."""
    stamps = torch.randint(1000, (batch, slots), device=DEVICE)
    newest = (1000 * torch.as_tensor(share, device=DEVICE)).long().expand(batch)[:, None].expand(batch, time) - 1
    return stamps, torch.zeros_like(newest), newest


class TestTopk:
    @pytest.mark.parametrize("sharing", but_for_interpreted([1, 2], lambda sharing: sharing == 2))
    @pytest.mark.parametrize(
        ("sizes", "k", "dtype"),
        [
            ((2, 2, 1, 300, 3), 20, torch.float64),
            pytest.param((2, 2, 17, 129, 2), 5, torch.float32, marks=IF_INTERPRETED),
            ((2, 1, 1, 128, 40), 128, torch.float32),
            pytest.param((2, 1, 1, 200, 1), 200, torch.float32, marks=IF_INTERPRETED),
            pytest.param((2, 1, 1, 3400, 2), 40, torch.float32, marks=IF_INTERPRETED),
        ],
        ids=["blocks", "tiles_of_queries", "all_of_one_block", "all_of_two_blocks", "tiles_of_candidates"],
    )
    def test_kernel_is_exact_where_many_scores_are_equal(self, sizes, k, dtype, sharing):
        """The same slots in the same order, hidden ones too, and the same gradients, to the bit."""
        batch, heads, time, slots, word = sizes
        query = whole(batch, heads * sharing, time, word, dtype=dtype)
        keys = whole(batch, heads, slots, word, dtype=dtype)
        enough_in_one_row_only = torch.tensor([0.9, k / slots / 2])
        assert all(equal(both(topk_address, query, keys, *sight(batch, time, slots, enough_in_one_row_only), k)))

    @long_interpreted
    def test_kernel_is_exact_with_a_decay(self):
        query, keys, decay = whole(2, 4, 9, 3), whole(2, 2, 140, 3), torch.tensor([0, 0.5, 1, 0.25]).double()
        given = (query, keys, *sight(2, 9, 140, 0.8), 12, decay.to(DEVICE))
        assert all(equal(both(topk_address, *given)))

    def test_ties_of_the_reference(self):
        query, keys, given = whole(2, 4, 3, 2), whole(2, 2, 40, 2), sight(2, 3, 40, 0.6)
        with use_backend("reference"):
            scores, indices = topk_address(query, keys, *given, k=11)
        want_scores, want_indices = naive.topk_address(*(each.cpu().numpy() for each in (query, keys, *given)), 11)
        assert scores.cpu().equal(torch.from_numpy(want_scores))
        assert indices.cpu().equal(torch.from_numpy(want_indices))

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # 0 times infinity, in the interpreter
    @pytest.mark.parametrize("value", but_for_interpreted([torch.nan, torch.inf, -torch.inf], torch.inf.__eq__))
    def test_slots_exist_whatever_the_scores_are(self, value):
        query, keys = torch.ones(1, 1, 2, 1, device=DEVICE), torch.randn(1, 1, 150, 1, device=DEVICE)
        keys[0, 0, 70:140] = value
        query[0, 0, 1] = value
        with use_backend("triton"):
            scores, indices = topk_address(query, keys, *sight(1, 2, 150, 1.0), k=140)
        assert ((indices >= 0) & (indices < 150)).all()
        assert all(len(set(row)) == 140 for row in indices.flatten(0, 2).tolist())
        if value != -torch.inf:
            assert set(range(70, 140)) == set(indices[0, 0, 0, :70].tolist())
            assert not scores[0, 0, 0, :70].isfinite().any()

    def test_only_chosen_keys_have_gradients(self):
        query, keys = torch.randn(1, 1, 5, 3, device=DEVICE), torch.randn(1, 1, 150, 3, device=DEVICE)
        (scores, indices, _, d_keys), _ = both(topk_address, query, keys, *sight(1, 5, 150, 1.0), 2)
        assert scores.isfinite().all()
        assert set(d_keys.abs().sum(-1).flatten().nonzero().flatten().tolist()) <= set(indices.flatten().tolist())


class TestSparseAccess:
    @given(draws())
    def test_is_dense_access_with_weights_elsewhere_zero(self, draw):
        memory, indices = draw.normal("batch", "slots", "word"), draw.slots("batch", "heads", "k")
        weights, add = draw.normal("batch", "heads", "k"), draw.normal("batch", "heads", "word")
        erase = draw.unit("batch", "heads", "word")
        dense = torch.nn.functional.one_hot(indices, draw.sizes.slots).to(weights).mul(weights[..., None]).sum(2)
        assert_close(sparse_read(memory, weights, indices), read(memory, dense))
        assert_close(sparse_write(memory, weights, indices, erase, add), erase_add(memory, dense, erase, add))

    @given(draws(torch.float32))
    def test_slots_that_are_not_named_stay(self, draw):
        memory, indices = draw.normal("batch", "slots", "word"), draw.slots("batch", "heads", "k")
        rest = [draw.weights("batch", "heads", "k"), indices, *(draw.unit("batch", "heads", "word") for _ in range(2))]
        named = torch.nn.functional.one_hot(indices, draw.sizes.slots).sum((1, 2)).bool()
        assert sparse_write(memory, *rest)[~named].equal(memory[~named])

    def test_a_slot_named_twice_has_both_weights(self):
        """Half and half is one write of the whole, not two of a half."""
        memory, one = torch.randn(1, 4, 3, device=DEVICE), torch.ones(1, 1, 3, device=DEVICE)
        weights, indices = torch.full((1, 1, 2), 0.5, device=DEVICE), torch.tensor([[[2, 2]]], device=DEVICE)
        for backend in ("triton", "reference"):
            with use_backend(backend):
                assert sparse_read(memory, weights, indices)[0, 0].equal(memory[0, 2])
                written = sparse_write(memory, weights, indices, one, 7 * one)
            assert (written[0, 2] == 7).all()
            assert written[0, [0, 1, 3]].equal(memory[0, [0, 1, 3]])

    @long_interpreted
    @pytest.mark.parametrize(
        ("heads", "slots", "word", "k"),
        [(2, 5, 3, 70), (3, 300, 2, 9), (2, 3, 1100, 2)],
        ids=["tiles_of_choices", "few_in_common", "wide_words"],
    )
    def test_kernel_beyond_one_tile(self, heads, slots, word, k):
        """Whole numbers: equal to the bit, whatever the order of a sum."""
        memory, weights = whole(2, slots, word), whole(2, heads, k, below=2)
        indices, erase, add = choices(2, heads, k, slots=slots), whole(2, heads, word, below=2), whole(2, heads, word)
        assert all(equal(both(sparse_read, memory, weights, indices)))
        assert all(equal(both(sparse_write, memory, weights, indices, erase, add)))

    def test_reads_in_the_wider_precision(self):
        memory, weights = torch.randn(1, 4, 3, dtype=torch.bfloat16), torch.rand(1, 2, 2)
        pair = both(sparse_read, memory.to(DEVICE), weights.to(DEVICE), choices(1, 2, 2, slots=4))
        assert [[result.dtype for result in results] for results in pair] == [
            [torch.float32, torch.bfloat16, torch.float32]
        ] * 2


class TestProductKeys:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        ("side", "half", "k"), [(8, 2, 8), (6, 1, 3), pytest.param(131, 2, 33, marks=IF_INTERPRETED)]
    )
    def test_exact_where_many_scores_are_equal(self, side, half, k, dtype):
        """Against all side² keys, sorted; the kernel's gradients equal the reference's to the bit."""
        query, half_keys = whole(2, 2, 2 * half, dtype=dtype), whole(2, 2, side, half, dtype=dtype)
        kernel, reference = both(product_key_address, query, half_keys, k)
        assert all(equal((kernel, reference)))
        first, second = torch.einsum("rhtd,htsd->trhs", query.unflatten(-1, (2, half)), half_keys)
        every = (first[..., :, None] + second[..., None, :]).flatten(-2)
        scores, slots = torch.sort(every, dim=-1, descending=True, stable=True)
        assert all(equal((kernel[:2], [scores[..., :k], slots[..., :k]])))

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_slots_exist_whatever_the_scores_are(self):
        """Infinity minus infinity is a score too."""
        query, infinite = torch.ones(1, 1, 2, device=DEVICE), torch.full((1, 6, 1), torch.inf, device=DEVICE)
        with use_backend("triton"):
            _, indices = product_key_address(query, torch.stack([infinite, -infinite], dim=1), k=6)
        assert len({*indices.flatten().tolist()} & {*range(36)}) == 6

    @given(draws(), st.data())
    def test_finds_the_best_of_all_keys(self, draw, data):
        half_keys = draw.normal("heads", 2, "slots", "word")
        query = draw.normal("batch", "heads", 2, "word").flatten(-2)
        k = data.draw(st.integers(1, draw.sizes.slots))
        scores, indices = product_key_address(query, half_keys, k)
        want_scores, want_indices = naive.product_key_address(query.numpy(), half_keys.numpy(), k)
        assert_close(scores, torch.from_numpy(want_scores))
        assert indices.equal(torch.from_numpy(want_indices))

    @pytest.mark.parametrize("k", [0, 4])
    def test_bounds_of_k(self, k):
        with pytest.raises(ValueError, match=f"not k={k} with 3 half keys"):
            product_key_address(torch.ones(1, 1, 4), torch.ones(1, 2, 3, 2), k)

    def test_a_query_has_two_halves(self):
        with pytest.raises(ValueError, match="4 numbers wide, not 3"):
            product_key_address(torch.ones(1, 1, 3), torch.ones(1, 2, 3, 2), 1)

    @pytest.mark.parametrize(
        ("rows", "slots", "word", "k"), [(20, 2, 3, 9), (9, 300, 2, 4), (5, 3, 1100, 3)], ids=["long", "short", "wide"]
    )
    def test_gather_adds_up_choices_of_any_number(self, rows, slots, word, k):
        """A slot chosen more often than a tile holds entries, once, or not at all; whole numbers, equal to the bit."""
        values, weights = whole(slots, word), whole(rows, 2, k)
        assert all(equal(both(weighted_gather, values, weights, choices(rows, 2, k, slots=slots))))

    def test_gather_of_one_is_a_look_up(self):
        values, indices = torch.randn(7, 3, device=DEVICE), choices(5, 2, 1, slots=7)
        for results in both(weighted_gather, values, torch.ones(5, 2, 1, device=DEVICE), indices):
            assert results[0].equal(values[indices[..., 0]])


@pytest.mark.parametrize("axis", ["rows", "k"])
def test_nothing_to_choose(axis):
    """`auto` gives zeros; the kernel, which has nothing to launch, says so."""
    rows, k = (0, 2) if axis == "rows" else (2, 0)
    values, weights = torch.randn(3, 4, device=DEVICE), torch.ones(rows, 1, k, device=DEVICE)
    indices = choices(rows, 1, k, slots=3)
    assert weighted_gather(values, weights, indices).equal(torch.zeros(rows, 1, 4, device=DEVICE))
    with use_backend("triton"), pytest.raises(BackendError, match="nothing to run"):
        weighted_gather(values, weights, indices)
