"""Ops: the laws that each keeps at odd shapes, and no NaN at the extremes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from memnets.ops.cases import OPS
from memnets.ops.content_address import content_address
from memnets.ops.draw import Draw, Sizes
from memnets.ops.erase_add import erase_add, read
from memnets.ops.read_slots import gather_slots, read_slots
from memnets.ops.shift_sharpen import circular_shift, interpolate, sharpen, shift_sharpen
from memnets.ops.topk_address import topk_address

DTYPES = [torch.float32, torch.bfloat16]


@st.composite
def draws(draw, dtype=torch.float64):
    """A source of random inputs at random odd sizes."""
    odd = st.sampled_from([1, 2, 3, 5, 7])
    axes = {axis: draw(odd) for axis in ("batch", "heads", "slots", "word", "time")}
    sizes = Sizes(**axes, width=draw(st.sampled_from([1, 3, 5])), strided=draw(st.booleans()))
    return Draw(sizes, torch.Generator().manual_seed(draw(st.integers(0, 10_000))), dtype)


def one_hot(indices, size, dtype=torch.float64):
    return torch.nn.functional.one_hot(indices, size).to(dtype)


def differentiable(arguments):
    """The arguments with gradients on, and those that have one."""
    floats = {
        name: value.detach().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return arguments | floats, list(floats.values())


class TestContentAddress:
    @given(draws(), st.sampled_from(["cosine", "dot"]))
    def test_weights_are_a_distribution(self, draw, similarity):
        weights = content_address(**content(draw), similarity=similarity)
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))

    @given(draws(), st.sampled_from([1e-2, 3.0, 1e6]))
    def test_key_scale_does_not_matter(self, draw, scale):
        """Up to the epsilon in the norm, which matters once |key|² comes near 1e-8: here it is at least 1e-4."""
        arguments = content(draw)
        key = torch.nn.functional.normalize(arguments["key"], dim=-1)
        arguments["strength"] = arguments["strength"].clamp_max(3)
        weights, scaled = (content_address(**arguments | {"key": k}) for k in (key, key * scale))
        assert_close(scaled, weights, rtol=1e-3, atol=0)

    def test_key_far_below_epsilon_finds_nothing(self):
        memory = torch.eye(3, dtype=torch.float64)[None]
        weights = content_address(memory, 1e-9 * memory[:, :1], torch.full((1, 1), 5.0, dtype=torch.float64))
        assert_close(weights, torch.full_like(weights, 1 / 3), rtol=1e-3, atol=0)

    @given(draws(), st.randoms(use_true_random=False))
    def test_permutes_with_the_slots(self, draw, random):
        arguments = content(draw) | {"mask": draw.mask("batch", "slots")}
        order = random.sample(range(draw.sizes.slots), draw.sizes.slots)
        permuted = arguments | {"memory": arguments["memory"][:, order], "mask": arguments["mask"][:, order]}
        assert_close(content_address(**permuted), content_address(**arguments)[:, :, order])

    @given(draws(), st.sampled_from(DTYPES))
    def test_masked_slots_get_nothing_and_the_rest_all(self, draw, dtype):
        arguments = {name: value.to(dtype) for name, value in content(draw).items()}
        arguments["strength"] = arguments["strength"] * 1e4
        mask = draw.mask("batch", "slots")
        weights = content_address(**arguments, mask=mask).float()
        assert (weights.masked_select(~mask[:, None]) == 0).all()
        assert_close(weights.sum(-1), mask.any(-1).float()[:, None].expand_as(weights[..., 0]), rtol=0, atol=0.03)

    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    def test_nothing_left_gives_zeros_and_finite_gradients(self, similarity):
        case = Draw(Sizes(), torch.Generator().manual_seed(0))
        arguments, inputs = differentiable(content(case))
        weights = content_address(**arguments, mask=torch.zeros(2, 7, dtype=torch.bool), similarity=similarity)
        assert (weights == 0).all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(weights.sum(), inputs))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("value", [0.0, 1e-6], ids=["zeros", "constant"])
    @pytest.mark.parametrize("key_scale", [0.0, 1.0])
    def test_empty_memory(self, dtype, value, key_scale):
        case = Draw(Sizes(), torch.Generator().manual_seed(0), dtype)
        arguments = content(case)
        arguments["memory"] = torch.full_like(arguments["memory"], value)
        arguments, inputs = differentiable(arguments | {"key": arguments["key"] * key_scale})
        weights = content_address(**arguments)
        assert_close(weights.float(), torch.full((2, 3, 7), 1 / 7), rtol=0.01, atol=0)
        gradients = torch.autograd.grad((weights * case.normal("batch", "heads", "slots")).sum(), inputs)
        assert all(grad.isfinite().all() for grad in gradients)


class TestLocation:
    @given(draws())
    def test_weights_are_a_distribution(self, draw):
        weights = shift_sharpen(**OPS["shift_sharpen"].calls["all"](draw))
        assert (weights >= 0).all()
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))

    @given(draws(torch.float32), st.sampled_from([0.0, 1.0]))
    def test_gate_at_its_ends(self, draw, end):
        """Gate 0 keeps the previous weights to the bit; gate 1 takes the content weights to a rounding."""
        content_weights, previous = (draw.weights("batch", "heads", "slots") for _ in range(2))
        weights = interpolate(content_weights, previous, torch.full(content_weights.shape[:2], end))
        if end == 0:
            assert weights.equal(previous)
        else:
            assert_close(weights, content_weights, rtol=0, atol=1e-7)

    @given(draws(torch.float32), st.data())
    def test_one_hot_shift_is_a_roll(self, draw, data):
        weights = draw.weights("batch", "heads", "slots")
        place = data.draw(st.integers(0, draw.sizes.width - 1))
        shift = one_hot(torch.full(weights.shape[:2], place), draw.sizes.width, torch.float32)
        assert circular_shift(weights, shift).equal(torch.roll(weights, place - draw.sizes.width // 2, dims=-1))

    @given(draws())
    def test_shifts_move_towards_higher_slots(self, draw):
        """The largest offset, on weights one-hot at slot 0."""
        size, width = draw.sizes.slots, draw.sizes.width
        weights = one_hot(torch.zeros(1, 1, dtype=torch.long), size)
        shift = one_hot(torch.full((1, 1), width - 1), width)
        assert circular_shift(weights, shift).argmax().item() == (width // 2) % size

    @given(draws(torch.float32))
    def test_sharpening_one_is_the_identity(self, draw):
        """To the rounding of a logarithm and back: 1e-5 relative in float32, for weights far above 1e-16."""
        weights = draw.weights("batch", "heads", "slots")
        assert_close(sharpen(weights, torch.ones(weights.shape[:2])), weights, rtol=1e-5, atol=0)

    @given(draws())
    def test_sharpening_keeps_the_order_and_raises_the_largest(self, draw):
        weights = draw.weights("batch", "heads", "slots")
        sharp = sharpen(weights, torch.full(weights.shape[:2], 2.0, dtype=torch.float64))
        assert sharp.argsort(-1).equal(weights.argsort(-1))
        assert (sharp.max(-1).values >= weights.max(-1).values - 1e-12).all()

    def test_weights_are_needed(self):
        weights = torch.full((1, 1, 2), 0.5)
        with pytest.raises(ValueError, match="needs content_weights or previous_weights"):
            shift_sharpen(None, None)
        with pytest.raises(ValueError, match="give both"):
            shift_sharpen(weights, None, gate=torch.ones(1, 1))


class TestReadWrite:
    @given(draws(torch.float32))
    def test_writing_nothing_changes_nothing(self, draw):
        memory, weights = draw.normal("batch", "slots", "word"), draw.weights("batch", "heads", "slots")
        nothing = torch.zeros(*weights.shape[:2], memory.shape[-1])
        assert erase_add(memory, weights, nothing, nothing).equal(memory)

    @given(draws(torch.float32), st.data())
    def test_one_hot_write_replaces_its_row_only(self, draw, data):
        memory, add = draw.normal("batch", "slots", "word"), draw.normal("batch", "word")[:, None]
        slot = data.draw(st.integers(0, draw.sizes.slots - 1))
        weights = one_hot(torch.full((len(memory), 1), slot), draw.sizes.slots, torch.float32)
        expected = memory.clone()
        expected[:, slot] = add[:, 0]
        written = erase_add(memory, weights, torch.ones_like(add), add)
        assert written.equal(expected)
        assert read(written, weights).equal(add)

    @given(draws(torch.float32))
    def test_read_is_an_average(self, draw):
        memory = draw.normal("batch", "slots", "word")
        vectors = read(memory, draw.weights("batch", "heads", "slots"))
        assert (vectors <= memory.amax(1, keepdim=True) + 1e-5).all()
        assert (vectors >= memory.amin(1, keepdim=True) - 1e-5).all()

    @given(draws())
    def test_writing_does_not_depend_on_the_order_of_heads(self, draw):
        arguments = OPS["erase_add"].calls[""](draw)
        flipped = {name: value if name == "memory" else value.flip(1) for name, value in arguments.items()}
        assert_close(erase_add(**flipped), erase_add(**arguments))


def sight(draw, all_visible=False):
    """Stamps of slots, and what each query sees of them."""
    arguments = OPS["topk_address"].calls["all_visible" if all_visible else "some_visible"](draw)
    return arguments["stamps"], arguments["oldest"], arguments["newest"]


class TestTopk:
    def test_ties_go_to_the_lower_slot(self):
        """With so many slots that a sort which isn't stable shows."""
        stamps = torch.randint(2, (1, 100))
        one = torch.ones(1, 1, dtype=torch.long)
        scores, indices = topk_address(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 100, 2), stamps, one, one, k=30)
        assert indices.flatten().tolist() == stamps.flatten().nonzero().flatten()[:30].tolist()
        assert scores.unique().tolist() == [2]

    @given(draws(), st.data())
    def test_best_first_and_only_visible(self, draw, data):
        query, keys = draw.normal("batch", "heads", "time", "word"), draw.normal("batch", "heads", "slots", "word")
        stamps, oldest, newest = sight(draw)
        visible = (oldest[..., None] <= stamps[:, None]) & (stamps[:, None] <= newest[..., None])
        k = data.draw(st.integers(1, draw.sizes.slots))
        scores, indices = topk_address(query, keys, stamps, oldest, newest, k)
        found = scores > -torch.inf
        assert (scores[..., :-1] >= scores[..., 1:]).all()
        assert found.sum(-1).equal(visible.sum(-1).clamp_max(k)[:, None].expand(found.shape[:3]))
        assert ((indices >= 0) & (indices < draw.sizes.slots)).all()
        seen = visible[:, None].expand(*found.shape[:3], -1).gather(-1, indices)
        assert seen[found].all()

    @pytest.mark.parametrize("k", [0, 4])
    def test_bounds_of_k(self, k):
        one = torch.ones(1, 1, dtype=torch.long)
        with pytest.raises(ValueError, match=f"not k={k} with 3 slots"):
            topk_address(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 3, 2), one.expand(1, 3), one, one, k)

    def test_heads_that_cannot_share(self):
        one = torch.ones(1, 1, dtype=torch.long)
        with pytest.raises(ValueError, match="a multiple of key heads, not 3 of 2"):
            topk_address(torch.ones(1, 3, 1, 2), torch.ones(1, 2, 1, 2), one, one, one, 1)
        for function, weights in ((read_slots, [torch.ones(1, 3, 1, 1)]), (gather_slots, [])):
            with pytest.raises(ValueError, match="a multiple of key heads, not 3 of 2"):
                function(torch.ones(1, 2, 1, 2), *weights, torch.zeros(1, 3, 1, 1, dtype=torch.long))

    @given(draws())
    def test_gathered_keys_give_the_scores(self, draw):
        query, keys = draw.normal("batch", "heads", "time", "word"), draw.normal("batch", "heads", "slots", "word")
        scores, indices = topk_address(query, keys, *sight(draw, all_visible=True), draw.sizes.slots)
        assert_close(torch.einsum("bhtw,bhtkw->bhtk", query, gather_slots(keys, indices)), scores)

    def test_of_equal_keys_the_newest_comes_first_with_a_decay(self):
        stamps, word = torch.tensor([[3, 0, 5, 1, -1, 4]]), torch.ones(1, 1, 1, 2)
        at = torch.tensor([[4]])
        arguments = (word, word.expand(1, 1, 6, 2), stamps, 0 * at, at, 3)
        assert topk_address(*arguments)[1].flatten().tolist() == [0, 1, 3]
        scores, indices = topk_address(*arguments, torch.tensor([0.5]))
        assert indices.flatten().tolist() == [5, 0, 3]
        assert scores.flatten().tolist() == [2, 1.5, 0.5]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("previous", ["one-hot", "zeros", "uniform"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("sharpening", [1.0, 1e3])
@pytest.mark.parametrize("end", [0.0, 1.0], ids=["gate_0", "gate_1"])
def test_extremes_stay_finite(dtype, previous, strength, sharpening, end):
    """A whole step at the edges of its parameters: finite values and finite gradients."""
    draw = Draw(Sizes(), torch.Generator().manual_seed(0), dtype)
    weights = {
        "one-hot": one_hot(draw.slots("batch", "heads"), draw.sizes.slots, dtype),
        "zeros": torch.zeros(2, 3, 7, dtype=dtype),
        "uniform": torch.full((2, 3, 7), 1 / 7, dtype=dtype),
    }[previous]
    arguments = content(draw) | {"strength": torch.full((2, 3), strength, dtype=dtype)}
    location = {
        "previous_weights": weights,
        "gate": torch.full((2, 3), end, dtype=dtype),
        "shift": one_hot(draw.slots("batch", "heads") % 3, 3, dtype),
        "sharpening": torch.full((2, 3), sharpening, dtype=dtype),
    }
    arguments, inputs = differentiable(arguments)
    location, more_inputs = differentiable(location)
    addressed = shift_sharpen(content_address(**arguments), **location)
    memory = erase_add(arguments["memory"], addressed, torch.ones(2, 3, 5, dtype=dtype), arguments["key"])
    outputs = read(memory, addressed)
    assert outputs.isfinite().all()
    assert_close(addressed.float().sum(-1), torch.ones(2, 3), rtol=0, atol=0.03)
    gradients = torch.autograd.grad(outputs.sum(), inputs + more_inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)


def content(draw):
    return OPS["content_address"].calls["cosine"](draw)
