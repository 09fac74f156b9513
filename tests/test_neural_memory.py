"""The op of neural memory: its laws, pieces against entries, a naive loop, and what stays finite."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiers import directions
from torch.testing import assert_close

from memnets.contracts import map_tensors, named_tensors
from memnets.ops.neural_memory import NeuralMemoryState, neural_memory, neural_memory_reference

every_form = pytest.mark.parametrize("form", [neural_memory, neural_memory_reference], ids=["pieces", "entries"])
every_depth = pytest.mark.parametrize("inner", [(), (7,), (4, 6)], ids=["linear", "two", "three"])
sizes = st.sampled_from([1, 2, 3, 5])
PER_ENTRY = ("query", "key", "value", "rate", "carry", "decay")


def unit(*shape, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def network(inner=(7,), batch=2, groups=2, word=5, value=3, entries=(0, 0), dtype=torch.float64):
    """Start, weights and momentum all different, as in the middle of a chunk."""
    widths = [word, *inner, value]
    weights = [tuple(torch.randn(batch, groups, *shape, dtype=dtype) for shape in pairwise(widths)) for _ in range(3)]
    return NeuralMemoryState(*weights, torch.tensor(entries[:batch]))


def problem(batch=2, groups=2, share=1, time=11, word=5, value=3, dtype=torch.float64, **of_network):
    """Keys of length 1, and rates at which the weights don't run away."""
    return {
        "query": torch.randn(batch, groups * share, time, word, dtype=dtype),
        "key": unit(batch, groups, time, word, dtype=dtype),
        "value": torch.randn(batch, groups, time, value, dtype=dtype),
        "rate": 0.03 * torch.rand(batch, groups, time, dtype=dtype),
        "carry": -torch.rand(batch, groups, time, dtype=dtype),
        "decay": -0.1 * torch.rand(batch, groups, time, dtype=dtype),
        "state": network(batch=batch, groups=groups, word=word, value=value, dtype=dtype, **of_network),
    }


def cut(given_, first, last, state):
    return given_ | {name: given_[name][:, :, first:last] for name in PER_ENTRY} | {"state": state}


def naive(query, key, value, rate, carry, decay, state, chunk_size, longest=math.inf):
    """Numpy, one row, head and entry after the other; gradients by central differences."""

    def answer(weights, vector):
        for matrix in weights[:-1]:
            sums = vector @ matrix
            vector = sums / (1 + np.exp(-sums)) * math.sqrt(2 / len(sums))
        return vector @ weights[-1]

    def gradient(weights, k, v):
        found = [np.zeros_like(matrix) for matrix in weights]
        for layer, matrix in enumerate(weights):
            for place in np.ndindex(matrix.shape):
                losses = []
                for step in (1e-5, -1e-5):
                    moved = [each.copy() for each in weights]
                    moved[layer][place] += step
                    losses.append(((answer(moved, k) - v) ** 2).sum())
                found[layer][place] = (losses[0] - losses[1]) / 2e-5
        return found

    reads, losses = np.zeros((*query.shape[:3], value.shape[-1])), np.zeros(rate.shape)
    state = map_tensors(torch.clone, state)
    share = query.shape[1] // key.shape[1]
    for b, g in np.ndindex(key.shape[:2]):
        start, weights, momentum = ([part[b, g].numpy() for part in state[i]] for i in range(3))
        for t in range(key.shape[2]):
            if (state.entries[b] + t) % chunk_size == 0:
                start = [matrix.copy() for matrix in weights]
            for head in range(g * share, (g + 1) * share):
                reads[b, head, t] = answer(start, query[b, head, t].numpy())
            k, v = key[b, g, t].numpy(), value[b, g, t].numpy()
            losses[b, g, t] = ((answer(start, k) - v) ** 2).sum()
            slopes = gradient(start, k, v)
            length = math.sqrt(sum((slope**2).sum() for slope in slopes))
            for layer, slope in enumerate(slopes):
                momentum[layer] *= math.exp(carry[b, g, t])
                momentum[layer] -= rate[b, g, t].item() * slope * min(1, longest / length)
                weights[layer] *= math.exp(decay[b, g, t])
                weights[layer] += momentum[layer]
        for i, part in enumerate((start, weights, momentum)):
            for layer, matrix in enumerate(part):
                state[i][layer][b, g] = torch.from_numpy(matrix)
    return torch.from_numpy(reads), torch.from_numpy(losses), state._replace(entries=state.entries + key.shape[2])


def close(got, expected, rtol=1e-9, atol=1e-9):
    assert_close(got[:2], expected[:2], rtol=rtol, atol=atol)
    assert_close(named_tensors(got[2]), named_tensors(expected[2]), rtol=rtol, atol=atol)


@every_form
class TestLaws:
    @every_depth
    @pytest.mark.parametrize("longest", [math.inf, 2.0])
    @pytest.mark.parametrize("entries", [(0, 0), (2, 5)])
    def test_equals_a_naive_loop(self, form, inner, longest, entries):
        given_ = problem(share=2, time=9, word=3, value=2, inner=inner, entries=entries)
        close(form(**given_, chunk_size=4, longest=longest), naive(**given_, chunk_size=4, longest=longest), 1e-6, 1e-6)

    @every_depth
    def test_no_rate_and_nothing_lost_leaves_the_weights(self, form, inner):
        given_ = problem(inner=inner)
        zeros = torch.zeros(2, 2, 11).double()
        state = given_["state"]._replace(momentum=tuple(map(torch.zeros_like, given_["state"].momentum)))
        _, _, after = form(**given_ | {"rate": zeros, "decay": zeros, "state": state}, chunk_size=4)
        assert_close(after.weights, state.weights, rtol=0, atol=0)
        assert_close(after.start, state.weights, rtol=0, atol=0)

    @every_depth
    def test_keeping_nothing_forgets(self, form, inner):
        """With no carry either, what is left is the last entry's step alone; gradients are finite."""
        given_ = problem(inner=inner, time=5)
        given_["decay"][:, :, 4], given_["carry"][:, :, 4] = -torch.inf, -torch.inf
        inputs = [given_[name].requires_grad_() for name in PER_ENTRY]
        read, loss, after = form(**given_, chunk_size=8)
        assert_close(after.weights, after.momentum)
        cleared = given_["state"]._replace(weights=after.weights, momentum=after.momentum, start=after.start)
        last = cut(given_, 4, 5, cleared._replace(entries=torch.tensor([4, 4])))
        assert_close(form(**last, chunk_size=8)[2].weights, after.weights)
        total = read.sum() + loss.sum() + sum(matrix.sum() for matrix in after.weights)
        assert all(each.isfinite().all() for each in torch.autograd.grad(total, inputs))

    @every_depth
    def test_without_momentum_it_is_a_gradient_step(self, form, inner):
        """Against autograd: one entry, all of the weights kept, carry -inf."""
        given_ = problem(inner=inner, time=1)
        given_ |= {"carry": torch.full((2, 2, 1), -torch.inf).double(), "decay": torch.zeros(2, 2, 1).double()}
        weights = tuple(matrix.requires_grad_() for matrix in given_["state"].weights)
        hidden = given_["key"]
        for matrix in weights[:-1]:
            hidden = torch.nn.functional.silu(hidden @ matrix) * math.sqrt(2 / matrix.shape[-1])
        loss = (hidden @ weights[-1] - given_["value"]).square().sum()
        expected = torch.autograd.grad(loss, weights)
        _, losses, after = form(**given_)
        assert_close(losses.sum(), loss)
        for new, old, gradient in zip(after.weights, weights, expected, strict=True):
            assert_close(new, old - given_["rate"][..., None] * gradient)

    def test_one_entry_at_rate_one_half_is_recalled_exactly(self, form):
        given_ = problem(inner=(), time=1)
        fresh = given_["state"]._replace(momentum=tuple(map(torch.zeros_like, given_["state"].momentum)))
        given_ |= {"rate": torch.full((2, 2, 1), 0.5).double(), "decay": torch.zeros(2, 2, 1).double(), "state": fresh}
        _, _, after = form(**given_)
        assert_close((given_["key"] @ after.weights[0]), given_["value"])

    def test_momentum_goes_on_without_gradients(self, form):
        """e + e² + ... of the momentum is added where nothing is learned or lost."""
        given_ = problem(time=9, inner=())
        carry, zeros = torch.full((2, 2, 9), 0.5).double().log(), torch.zeros(2, 2, 9).double()
        _, _, after = form(**given_ | {"rate": zeros, "decay": zeros, "carry": carry}, chunk_size=4)
        moved = given_["state"].weights[0] + (1 - 0.5**9) * given_["state"].momentum[0]
        assert_close(after.weights[0], moved)

    def test_a_gradient_is_cut_to_its_greatest_length(self, form):
        given_ = problem(time=1)
        given_["carry"] = torch.full_like(given_["carry"], -torch.inf)
        given_["rate"] = torch.ones_like(given_["rate"])
        for longest in (0.5, 1e9):
            _, _, after = form(**given_, longest=longest)
            length = sum(matrix.square().sum((2, 3)) for matrix in after.momentum).sqrt()
            if longest == 0.5:
                assert_close(length, torch.full((2, 2), 0.5).double())
            else:
                assert (length > 0.5).all()

    def test_strong_decays_stay_exact(self, form):
        """Cumulative logarithms reach -4000 in float32: no share is a difference of two of them."""
        given_ = problem(time=60, dtype=torch.float32)
        given_["decay"][:, :, ::3], given_["carry"][:, :, 1::3] = -200.0, -200.0
        exact = map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, given_)
        got = map_tensors(
            lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, form(**given_, chunk_size=64)
        )
        close(got, neural_memory_reference(**exact, chunk_size=64), 1e-5, 1e-5)

    def test_queries_see_earlier_chunks_alone(self, form):
        given_, others = problem(), problem()
        read, _, _ = form(**given_, chunk_size=4)
        for t in range(11):
            mixed = {name: torch.cat([given_[name][:, :, :t], others[name][:, :, t:]], 2) for name in PER_ENTRY}
            mixed |= {"query": given_["query"], "state": given_["state"]}
            changed, _, _ = form(**mixed, chunk_size=4)
            seen = 4 * (t // 4) + 4
            assert_close(changed[:, :, :seen], read[:, :, :seen])
            assert seen >= 11 or not torch.isclose(changed[:, :, seen:], read[:, :, seen:]).any()

    def test_a_number_that_is_not_finite_spoils_no_other_row_or_head(self, form):
        given_ = problem()
        expected = form(**given_, chunk_size=4)
        given_["key"][0, 0, 5, 2] = torch.nan
        read, loss, after = form(**given_, chunk_size=4)
        assert_close(read[:, :, :8], expected[0][:, :, :8])
        assert read[0, 0, 8:].isnan().all()
        for got, want in ((read, expected[0]), (loss, expected[1]), (after.weights[0], expected[2].weights[0])):
            assert_close([got[1], got[0, 1]], [want[1], want[0, 1]])

    def test_the_given_state_is_left_untouched(self, form):
        given_ = problem(entries=(1, 3))
        before = map_tensors(torch.clone, given_["state"])
        form(**given_, chunk_size=4)
        assert_close(named_tensors(given_["state"]), named_tensors(before), rtol=0, atol=0)

    def test_refuses_what_it_cannot_do(self, form):
        with pytest.raises(ValueError, match="equal shares per key head, not 3 for 2"):
            form(**problem() | {"query": torch.randn(2, 3, 11, 5).double()})
        with pytest.raises(ValueError, match="at least one entry"):
            form(**problem(time=0))
        with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
            form(**problem(), chunk_size=0)

    @directions
    @every_depth
    def test_gradients(self, form, inner, fast):
        given_ = problem(batch=1, groups=1, share=2, time=5, word=3, value=2, inner=inner, entries=(2,))
        state = given_["state"]
        inputs = [*(given_[name] for name in PER_ENTRY), *state.start, *state.weights, *state.momentum]

        def call(*parts):
            matrices, depth = parts[6:], len(state.weights)
            thirds = (matrices[i : i + depth] for i in range(0, 3 * depth, depth))
            arguments = dict(zip(PER_ENTRY, parts, strict=False)) | {"state": NeuralMemoryState(*thirds, state.entries)}
            read, loss, after = form(**arguments, chunk_size=3, longest=3.0)
            return read, loss, *after.start, *after.weights, *after.momentum

        assert torch.autograd.gradcheck(call, [part.detach().requires_grad_() for part in inputs], fast_mode=fast)


class TestForms:
    @given(batch=sizes, groups=sizes, share=sizes, time=st.integers(1, 30), word=sizes, value=sizes, data=st.data())
    def test_pieces_equal_entries(self, batch, groups, share, time, word, value, data):
        inner = data.draw(st.sampled_from([(), (1,), (4,), (3, 2)]))
        entries = data.draw(st.lists(st.integers(0, 40), min_size=batch, max_size=batch))
        given_ = problem(batch, groups, share, time, word, value, inner=inner, entries=entries)
        options = {"chunk_size": data.draw(st.integers(1, 35)), "longest": data.draw(st.sampled_from([1.0, math.inf]))}
        close(neural_memory(**given_, **options), neural_memory_reference(**given_, **options))

    @given(cuts=st.sets(st.integers(1, 39)), entries=st.tuples(st.integers(0, 9), st.integers(0, 9)))
    def test_cuts_change_nothing(self, cuts, entries):
        given_ = problem(time=40, entries=entries)
        expected = neural_memory(**given_, chunk_size=8, longest=2.0)
        parts, state, edges = [], given_["state"], [0, *sorted(cuts), 40]
        for first, last in pairwise(edges):
            *part, state = neural_memory(**cut(given_, first, last, state), chunk_size=8, longest=2.0)
            parts.append(part)
        read, loss = (torch.cat(each, 2) for each in zip(*parts, strict=True))
        close((read, loss, state), expected)

    def test_rows_at_different_places_are_as_each_alone(self):
        given_ = problem(batch=2, time=20, entries=(3, 6))
        read, loss, after = neural_memory(**given_, chunk_size=8)
        for row in range(2):
            one = map_tensors(lambda tensor, row=row: tensor[row : row + 1], given_)
            alone = neural_memory(**one, chunk_size=8)
            close((read[row : row + 1], loss[row : row + 1], map_tensors(lambda t, r=row: t[r : r + 1], after)), alone)

    def test_float32_errs_no_more_than_entries_do(self):
        errors = {}
        for seed in range(5):
            torch.manual_seed(seed)
            given_ = problem(time=256, word=16, value=16, inner=(16,), dtype=torch.float32)
            exact = neural_memory_reference(
                **map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, given_)
            )
            for name, form in (("entries", neural_memory_reference), ("pieces", neural_memory)):
                pairs = zip(named_tensors(form(**given_)).values(), named_tensors(exact).values(), strict=True)
                off = max((a - b).abs().max().item() for a, b in pairs)
                errors[name] = max(errors.get(name, 0.0), off)
        assert errors["pieces"] <= 4 * errors["entries"]

    def test_autocast_leaves_it_in_float32(self):
        given_ = problem(dtype=torch.float32)
        expected = neural_memory(**given_)
        with torch.autocast("cpu", torch.bfloat16):
            got = neural_memory(**given_)
        assert named_tensors(got).keys() == named_tensors(expected).keys()
        assert all(
            a.equal(b) for a, b in zip(named_tensors(got).values(), named_tensors(expected).values(), strict=True)
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_stays_near_float64(self, dtype):
        given_ = problem(dtype=dtype)
        wide = map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, given_)
        for got, want in zip(neural_memory(**given_)[:2], neural_memory(**wide)[:2], strict=True):
            assert got.dtype == dtype
            assert (got.double() - want).abs().max() <= 16 * torch.finfo(dtype).eps * want.abs().max()


class TestLong:
    """Ten thousand entries, whatever the gates: gradients no longer than `longest` move the weights so much, not more.

    |S| <= rate · longest / (1 - e), so |M| grows by no more than that an entry.
    """

    @every_depth
    @pytest.mark.parametrize("keys", ["random", "equal"])
    @pytest.mark.parametrize("rate", [0.05, 1.0])
    def test_weights_grow_by_a_bounded_step_at_most(self, inner, keys, rate):
        torch.manual_seed(0)
        given_ = problem(1, 1, time=10_000, word=8, value=8, inner=inner, entries=(0,), dtype=torch.float32)
        if keys == "equal":
            given_["key"] = given_["key"][:, :, :1].expand_as(given_["key"])
        ones = torch.ones(1, 1, 10_000)
        given_ |= {"rate": rate * ones, "carry": ones * math.log(0.9), "decay": 0 * ones}
        given_["value"] = 100 * given_["value"]
        read, loss, after = neural_memory(**given_, longest=6.0)
        assert all(tensor.isfinite().all() for tensor in (read, loss, *named_tensors(after).values()))
        first = given_["state"]
        size = lambda weights: sum(matrix.square().sum() for matrix in weights).sqrt()  # noqa: E731
        step = rate * 6.0 / (1 - 0.9)
        assert size(after.momentum) <= 1.001 * (size(first.momentum) + step)
        assert size(after.weights) <= 1.001 * (size(first.weights) + 9 * size(first.momentum) + 10_000 * step)

    def test_without_a_greatest_length_equal_keys_run_away(self):
        """So that the test above can fail: 16 equal keys at rate 1 overshoot 32 times, and again."""
        given_ = problem(1, 1, time=10_000, word=8, value=8, inner=(), entries=(0,), dtype=torch.float32)
        ones = torch.ones(1, 1, 10_000)
        key = given_["key"][:, :, :1].expand_as(given_["key"])
        given_ |= {"rate": ones, "carry": -torch.inf * ones, "decay": 0 * ones, "key": key}
        assert not neural_memory(**given_)[0].isfinite().all()
