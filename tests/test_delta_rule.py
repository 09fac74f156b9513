"""The delta rule: its laws, chunks of any size against steps, decays to the last, and what stays bounded."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiers import directions
from torch.testing import assert_close

from memnets.ops.delta_rule import delta_rule, delta_rule_reference

FORMS = {
    "reference": delta_rule_reference,
    "chunks": partial(delta_rule, chunk_size=4),
    "one_chunk": partial(delta_rule, chunk_size=64),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
sizes = st.sampled_from([1, 2, 3, 5])


def unit(*shape, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def problem(batch=2, groups=2, share=1, time=11, word=5, value=3, decay=True, dtype=torch.float64):
    """Keys of length 1, shares between 0 and 1."""
    return {
        "query": torch.randn(batch, groups * share, time, word, dtype=dtype),
        "key": unit(batch, groups, time, word, dtype=dtype),
        "add": torch.randn(batch, groups, time, value, dtype=dtype),
        "erase": torch.rand(batch, groups, time, dtype=dtype),
        "decay": -torch.rand(batch, groups, time, dtype=dtype) if decay else None,
        "memory": torch.randn(batch, groups, word, value, dtype=dtype),
    }


def cut(given_, first, last):
    return {name: part if part is None or name == "memory" else part[:, :, first:last] for name, part in given_.items()}


@every_form
class TestLaws:
    def test_a_write_replaces_what_the_key_held_and_nothing_else(self, form):
        """erase 1: the key then holds the new value to the rounding; what is orthogonal to it is as before."""
        arguments = problem(time=1, decay=False) | {"erase": torch.ones(2, 2, 1).double()}
        _, after = form(**arguments)
        key, before = arguments["key"][:, :, 0], arguments["memory"]
        assert_close(torch.einsum("bgw,bgwv->bgv", key, after), arguments["add"][:, :, 0])
        other = torch.randn_like(key)
        other = other - (other * key).sum(-1, keepdim=True) * key
        assert_close(torch.einsum("bgw,bgwv->bgv", other, after), torch.einsum("bgw,bgwv->bgv", other, before))

    def test_orthogonal_keys_are_held_until_written_again(self, form):
        """The last value of every key is what it reads, and reads see the writes before them alone."""
        places = torch.tensor([0, 3, 1, 0, 2, 2, 1, 0, 3])
        key, values = torch.eye(4).double()[places][None, None], torch.randn(1, 1, 9, 3).double()
        empty, ones = torch.zeros(1, 1, 4, 3).double(), torch.ones(1, 1, 9).double()
        read, after = form(key, key, values, ones, None, empty)
        for t, place in enumerate(places.tolist()):
            earlier = [s for s in range(t) if places[s] == place]
            assert_close(read[0, 0, t], values[0, 0, earlier[-1]] if earlier else torch.zeros(3).double())
        assert_close(after[0, 0], values[0, 0, [7, 6, 5, 8]])

    def test_erase_is_the_share_that_goes(self, form):
        """add = erase · v: held · (1 - erase) + erase · v."""
        arguments, value = problem(time=1, decay=False), torch.randn(2, 2, 3).double()
        key, erase = arguments["key"][:, :, 0], arguments["erase"]
        _, after = form(**arguments | {"add": (erase * value)[:, :, None]})
        held = torch.einsum("bgw,bgwv->bgv", key, arguments["memory"])
        assert_close(torch.einsum("bgw,bgwv->bgv", key, after), held + erase * (value - held))

    @pytest.mark.parametrize("key_scale", [0.0, 1.0])
    def test_nothing_erased_or_added_changes_nothing(self, form, key_scale):
        arguments = problem(decay=False)
        nothing = {"erase": torch.zeros_like(arguments["erase"]), "add": torch.zeros_like(arguments["add"])}
        read, after = form(**arguments | nothing | {"key": key_scale * arguments["key"]})
        assert after.equal(arguments["memory"])
        assert_close(read, arguments["query"] @ arguments["memory"], rtol=1e-12, atol=1e-12)

    def test_zero_keys_write_nothing(self, form):
        arguments = problem(decay=False)
        assert form(**arguments | {"key": torch.zeros_like(arguments["key"])})[1].equal(arguments["memory"])

    def test_decay_of_nothing_left_forgets_all(self, form):
        """Before step 6 everything goes: what follows is as if it had begun there; gradients are finite."""
        arguments = problem()
        arguments["decay"][:, :, 6] = -torch.inf
        inputs = [part.requires_grad_() for part in arguments.values()]
        read, after = form(**arguments)
        from_there = cut(arguments, 6, 11) | {"memory": torch.zeros_like(arguments["memory"])}
        expected, expected_after = form(**from_there)
        assert_close(read[:, :, 7:], expected[:, :, 1:])
        assert_close(after, expected_after)
        gradients = torch.autograd.grad(read.sum() + after.sum(), inputs)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[1][:, :, :6] != 0).any()

    def test_strong_decays_stay_exact(self, form):
        """Cumulative logarithms reach -4000 in float32: no share is a difference of two of them."""
        given_ = problem(time=60, dtype=torch.float32)
        given_["decay"][:, :, ::3] = -200.0
        exact = {name: part.double() for name, part in given_.items()}
        for got, want in zip(form(**given_), delta_rule_reference(**exact), strict=True):
            assert_close(got.double(), want, rtol=1e-5, atol=1e-5)

    def test_no_step_sees_itself_or_later_ones(self, form):
        arguments, others = problem(), problem()
        read, _ = form(**arguments)
        for t in range(11):
            mixed = {
                name: part if name == "memory" else torch.cat([part[:, :, :t], others[name][:, :, t:]], 2)
                for name, part in arguments.items()
            }
            mixed["query"] = arguments["query"]
            assert_close(form(**mixed)[0][:, :, : t + 1], read[:, :, : t + 1])

    def test_a_number_that_is_not_finite_spoils_no_other_row(self, form):
        arguments = problem()
        expected = form(**arguments)
        arguments["key"][0, 0, 5, 2] = torch.nan
        read, after = form(**arguments)
        assert_close([read[1], after[1]], [expected[0][1], expected[1][1]])
        assert after[0, 0].isnan().any()

    def test_refuses_heads_that_groups_cannot_share(self, form):
        arguments = problem(groups=2)
        arguments["query"] = torch.randn(2, 3, 11, 5).double()
        with pytest.raises(ValueError, match="equal shares per key head, not 3 for 2"):
            form(**arguments)


@every_form
def test_refuses_no_steps(form):
    with pytest.raises(ValueError, match="at least one step"):
        form(**problem(time=0))


def test_refuses_chunks_of_nothing():
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        delta_rule(**problem(), chunk_size=0)


class TestForms:
    @given(batch=sizes, groups=sizes, share=sizes, time=st.integers(1, 40), word=sizes, value=sizes, data=st.data())
    def test_chunks_equal_steps(self, batch, groups, share, time, word, value, data):
        given_ = problem(batch, groups, share, time, word, value, decay=data.draw(st.booleans()))
        chunk_size = data.draw(st.integers(1, 45))
        expected = delta_rule_reference(**given_)
        assert_close(delta_rule(**given_, chunk_size=chunk_size), expected, rtol=1e-10, atol=1e-10)

    @given(cuts=st.sets(st.integers(1, 39)), decay=st.booleans())
    def test_cuts_change_nothing(self, cuts, decay):
        given_ = problem(time=40, decay=decay)
        expected = delta_rule(**given_)
        reads, memory, edges = [], given_["memory"], [0, *sorted(cuts), 40]
        for first, last in pairwise(edges):
            read, memory = delta_rule(**cut(given_, first, last) | {"memory": memory})
            reads.append(read)
        assert_close((torch.cat(reads, 2), memory), expected, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("share", [1, 3])
    @pytest.mark.parametrize("decay", [False, True])
    @directions
    @every_form
    def test_gradients(self, form, decay, share, fast):
        given_ = problem(batch=1, share=share, time=9, decay=decay)
        names = [name for name, part in given_.items() if part is not None]
        inputs = [given_[name].requires_grad_() for name in names]
        call = lambda *parts: form(**given_ | dict(zip(names, parts, strict=True)))  # noqa: E731
        assert torch.autograd.gradcheck(call, inputs, fast_mode=fast)

    def test_heads_share_a_group_in_order(self):
        given_ = problem(groups=2, share=3)
        whole, _ = delta_rule(**given_)
        for head in range(6):
            one = {name: part[:, head // 3 : head // 3 + 1] for name, part in given_.items()}
            read, _ = delta_rule(**one | {"query": given_["query"][:, head : head + 1]})
            assert_close(read[:, 0], whole[:, head])

    @pytest.mark.parametrize("equal_keys", [False, True])
    def test_float32_errs_no_more_than_steps_do(self, equal_keys):
        """Equal keys make the worst system: all below the diagonal is then 1."""
        errors = {}
        for seed in range(5):
            torch.manual_seed(seed)
            given_ = problem(time=256, word=16, value=16, dtype=torch.float32)
            if equal_keys:
                given_ |= {"key": given_["key"][:, :, :1].expand_as(given_["key"]), "decay": None}
            exact = delta_rule_reference(**{k: None if v is None else v.double() for k, v in given_.items()})
            for name, form in (("steps", delta_rule_reference), ("chunks", delta_rule)):
                off = max((a.double() - b).abs().max().item() for a, b in zip(form(**given_), exact, strict=True))
                errors[name] = max(errors.get(name, 0.0), off)
        assert errors["chunks"] <= 4 * errors["steps"]

    def test_autocast_leaves_it_in_float32(self):
        given_ = problem(dtype=torch.float32)
        expected = delta_rule(**given_)
        with torch.autocast("cpu", torch.bfloat16):
            read, after = delta_rule(**given_)
        assert read.equal(expected[0])
        assert after.equal(expected[1])


class TestLong:
    @pytest.mark.parametrize("decay", [False, True])
    def test_ten_thousand_steps_stay_bounded(self, decay):
        """|M_t|² <= |M_0|² + Σ erase |v|² for keys of length 1, whatever they are; of random ones, far below."""
        torch.manual_seed(0)
        given_ = problem(batch=1, time=10_000, word=16, value=16, decay=decay, dtype=torch.float32)
        value, erase = given_["add"], given_["erase"]
        given_ |= {"add": erase[..., None] * value, "decay": given_["decay"] / 100 if decay else None}
        read, after = delta_rule(**given_)
        written = (erase[..., None] * value.square()).sum((2, 3))
        assert (after.square().sum((2, 3)) <= given_["memory"].square().sum((2, 3)) + written).all()
        size = read.square().mean((0, 1, 3))
        assert size[-5000:].mean() <= 1.1 * size[1000:5000].mean()

    def test_keys_made_to_enlarge_it_do_no_more_than_the_bound(self):
        """Each key is orthogonal to what is held so far: the norm grows with the root of the steps, as bounded."""
        memory, ones = torch.zeros(1, 1, 2, 1).double(), torch.ones(1, 1, 1).double()
        for t in range(1, 200):
            first, second = memory[0, 0, :, 0]
            key = torch.stack([-second, first]) if t > 1 else torch.tensor([1.0, 0.0]).double()
            key = (key / key.norm())[None, None, None]
            _, memory = delta_rule(key, key, ones[..., None], ones, None, memory)
            assert_close(memory.square().sum().item(), float(t))
