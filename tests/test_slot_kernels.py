"""The C++ kernels of `topk_address` and `read_slots`: against the references; a search's two screens alike."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from kernel_problems import wrong
from torch.func import vmap
from torch.testing import assert_close

from memnets.benchmark.counting import Traffic
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.read_slots import read_slots
from memnets.ops.topk_address import topk_address

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}


class Shape(NamedTuple):
    """Sizes of a problem; `seen` is the share of slots that a query sees."""

    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    time: int = 5
    slots: int = 70
    word: int = 5
    k: int = 4
    seen: float = 0.6
    decay: bool = False
    strided: bool = False


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1),
    "one_slot": Shape(slots=1, k=1),
    "one_word": Shape(word=1),
    "one_query": Shape(batch=1, heads=1, key_heads=1, time=1, slots=1030),
    "few_are_seen": Shape(seen=0.03),
    "none_is_seen": Shape(seen=0.0),
    "all_are_seen": Shape(seen=1.0),
    "all_are_chosen": Shape(slots=33, k=33, seen=1.0),
    "decay": Shape(decay=True),
    "decay_in_blocks": Shape(batch=1, slots=2500, word=16, decay=True, k=7),
    "one_key_head": Shape(key_heads=1),
    "no_sharing": Shape(key_heads=4),
    "whole_tiles": Shape(time=16, slots=48, word=64),
    "beyond_a_block": Shape(batch=1, heads=2, time=9, slots=1025, word=17, k=33),
    "several_blocks": Shape(batch=1, heads=2, time=3, slots=3300, word=8, seen=1.0),
    "k_beyond_a_block": Shape(batch=1, heads=2, time=2, slots=2300, word=3, k=1100, seen=1.0),
    "no_queries": Shape(time=0),
    "no_rows": Shape(batch=0),
    "strided": Shape(strided=True, decay=True),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class Problem(NamedTuple):
    """What is searched, and values of the slots."""

    query: torch.Tensor
    keys: torch.Tensor
    stamps: torch.Tensor
    oldest: torch.Tensor
    newest: torch.Tensor
    k: int
    decay: torch.Tensor | None
    values: torch.Tensor

    @property
    def tensors(self):
        return [part for part in (self.query, self.keys, self.decay, self.values) if part is not None]

    def to(self, dtype):
        """The same numbers at another precision."""
        return self._replace(
            **{
                name: part.detach().to(dtype).requires_grad_()
                for name, part in self._asdict().items()
                if isinstance(part, torch.Tensor) and part.is_floating_point()
            }
        )


def problem(shape=None, dtype=torch.float64, seed=0):
    """Slots as in a ring buffer that has turned over, some of them empty; every query sees a range of its own."""
    shape, generator = shape or Shape(), torch.Generator().manual_seed(seed)

    def place(tensor):
        if not shape.strided:
            return tensor
        gaps = torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else ~tensor
        return torch.stack([tensor, gaps], dim=-1)[..., 0]

    def normal(*sizes):
        numbers = torch.randn(sizes, generator=generator, dtype=torch.float64)
        return place(numbers.to(dtype)).requires_grad_()

    batch, slots, time = shape.batch, shape.slots, shape.time
    turned = torch.randint(slots, (batch, 1), generator=generator)
    stamps = (torch.arange(slots) + turned) % slots
    stamps = torch.where(torch.rand(batch, slots, generator=generator) < 0.1 * (shape.seen < 1), -1, stamps)
    newest = torch.randint(slots // 2, slots, (batch, time), generator=generator)
    if shape.seen == 1:
        newest = torch.full_like(newest, slots)
    oldest = newest + 1 - round(shape.seen * (slots + 1))
    return Problem(
        normal(batch, shape.heads, time, shape.word),
        normal(batch, shape.key_heads, slots, shape.word),
        place(stamps),
        place(oldest),
        place(newest),
        shape.k,
        (normal(shape.heads).detach().abs() / 8).requires_grad_() if shape.decay else None,
        normal(batch, shape.key_heads, slots, shape.word + 2),
    )


def search(given):
    """Scores and slots."""
    return topk_address(*given[:7])


def read(given):
    """Scores, and what is read with them as weights."""
    scores, indices = search(given)
    found = scores > -torch.inf
    return scores, read_slots(given.values, torch.softmax(scores.masked_fill(~found, -1e9), -1) * found, indices)


def results(backend, given, function=read):
    """What a function gives, and gradients of all arguments for random ones of that."""
    with use_backend(backend):
        outputs = function(given)
        outputs = [torch.where(out == -torch.inf, 0, out) for out in outputs if out.is_floating_point()]
        generator = torch.Generator().manual_seed(1)
        gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in outputs]
        found = torch.autograd.grad(outputs, given.tensors, gradients, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in given.tensors)
    return [*outputs, *(zero if each is None else each for each, zero in zip(found, zeros, strict=True))]


def op_arguments(given):
    """Those of the registered op."""
    return (*given[:5], given.decay, given.k)


@pytest.fixture(scope="module", autouse=True)
def built():
    """The ops exist once the kernels are loaded."""
    results("cpu", problem())


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    def test_float64(self, shape):
        given = problem(shape)
        assert_close(results("cpu", given), results("reference", given), **DOUBLE)

    @shapes
    def test_finds_the_same_slots(self, shape):
        given = problem(shape)
        with use_backend("cpu"):
            scores, indices = search(given)
        with use_backend("reference"):
            want_scores, want = search(given)
        assert scores.isneginf().equal(want_scores.isneginf())
        assert indices.masked_fill(scores.isneginf(), 0).equal(want.masked_fill(scores.isneginf(), 0))
        assert ((indices >= 0) & (indices < shape.slots)).all()

    @pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"no_queries", "no_rows", "k_beyond_a_block"}))
    def test_float32_errs_no_more_than_the_reference(self, name):
        """Not with so many neighbours that some lie a rounding apart: their order, and so every gradient, is chance."""
        assert wrong(*in_float32(SHAPES[name])) == {}

    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(Shape(decay=True), seeds=3)
        for i in range(len(exact[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    def test_a_forgotten_block_is_caught(self):
        """The best slot of the last block, hidden from the kernel: what a search that ends too early would miss."""
        given = problem(SHAPES["several_blocks"])
        hidden = given._replace(newest=given.newest.clamp_max(given.stamps.max() - 1))
        hidden.keys.data[:, :, hidden.stamps[0].argmax()] = 9 * given.query.data[:, :1, 0]
        got, want = results("cpu", hidden), results("reference", given)
        assert not torch.allclose(got[0], want[0])

    def test_low_precision_is_computed_in_float32(self):
        given = problem(dtype=torch.bfloat16)
        for got, want in zip(results("cpu", given), results("cpu", given.to(torch.float32)), strict=True):
            assert got.dtype == torch.bfloat16
            assert_close(got.double(), want.double(), rtol=0.01, atol=0.02 * want.abs().max().item())


def in_float32(shape, seeds=5):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(seeds):
        narrow = problem(shape, torch.float32, seed)
        runs = ("cpu", narrow), ("reference", narrow), ("reference", narrow.to(torch.float64))
        found.append([results(backend, given) for backend, given in runs])
    return list(zip(*found, strict=True))


def normal(*sizes):
    return torch.randn(*sizes)


def some(*sizes, every, one, other):
    """A vector in every so many places, and another in all that are left."""
    where = (torch.arange(sizes[-2]) % every == every - 1)[:, None]
    return torch.where(where, one, other).expand(*sizes[:-1], -1).clone()


def keys_rounded_down(*sizes):
    """The greatest are rounded down most, the others up; a few hold the number that makes the step 1."""
    first = torch.arange(sizes[-1]) < (sizes[-1] + 1) // 2
    keys = some(*sizes, every=700, one=torch.full(sizes[-1:], 10.49), other=torch.where(first, 10.51, 10.3))
    keys[..., ::100, 0], keys[..., ::100, 1:] = 127, -20
    return keys


def queries_rounded_down(*sizes):
    half = (sizes[-1] - 1) // 2
    query = torch.full(sizes, 9.51)
    query[..., : half + 1], query[..., 0] = 10.49, 127
    return query


def keys_of_such(*sizes):
    """Those that ask for what was rounded down in a query, and with one number more what was rounded up."""
    half, place = (sizes[-1] - 1) // 2, torch.arange(sizes[-1])
    down = (place >= 1) & (place < half)
    return some(*sizes, every=700, one=down.float(), other=(place > half).float())


KINDS = {
    "keys_rounded_down": (lambda *n: torch.ones(n), keys_rounded_down),
    "queries_rounded_down": (queries_rounded_down, keys_of_such),
    "normal": (normal, normal),
    "unit": (lambda *n: 10 * torch.nn.functional.normalize(normal(*n), dim=-1),) * 2,
    "of_all_sizes": (lambda *n: normal(*n) * (4 * normal(*n[:-1], 1)).exp(),) * 2,
    "one_great_number": (lambda *n: torch.cat([1e3 * normal(*n)[..., :1], normal(*n)[..., 1:]], -1),) * 2,
    "nearly_equal": (normal, lambda *n: normal(*n[:-2], 1, n[-1]) + 1e-3 * normal(*n)),
    "equal_but_for_rounding": (normal, lambda *n: normal(*n[:-2], 1, n[-1]) * (1 + 1e-7 * normal(*n))),
    "all_equal": (normal, lambda *n: torch.ones(n)),
    "whole": (lambda *n: torch.randint(-2, 3, n).float(),) * 2,
    "zeros": (normal, lambda *n: torch.zeros(n)),
    "tiny": (lambda *n: 1e-22 * normal(*n),) * 2,
    "denormal": (lambda *n: 1e-39 * normal(*n),) * 2,
    "great": (lambda *n: 1e22 * normal(*n), normal),
    "infinite_scores": (lambda *n: 1e30 * normal(*n),) * 2,
    "lone_outliers": (normal, lambda *n: normal(*n) * torch.where(torch.rand(*n[:-1], 1) < 0.01, 1e4, 1.0)),
}


class TestScreens:
    """The search that rules slots out in whole numbers of 8 bits gives what the plain one does, bit for bit."""

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
    @pytest.mark.parametrize(("slots", "word", "k"), [(1, 1, 1), (100, 3, 9), (1500, 64, 32), (2100, 19, 5)])
    @pytest.mark.parametrize("decay", [None, 0.01, 30.0, -0.5])
    def test_agree(self, kind, slots, word, k, decay):
        make_query, make_keys = kind
        query, keys = make_query(2, 2, 11, word), make_keys(2, 1, slots, word)
        for seen in (1.0, 0.4):
            stamps = (torch.arange(slots) + 40).remainder(slots).expand(2, -1)
            newest = torch.randint(slots // 2, slots, (2, 11))
            oldest = newest - round(seen * slots)
            rates = None if decay is None else torch.tensor([decay, 0.0])
            given = (query, keys, stamps, oldest, newest, rates, k)
            (scores, slot), (plain, plain_slot) = (torch.ops.memnets.search_slots(*given, way) for way in (False, True))
            assert_close(scores, plain, rtol=0, atol=0, equal_nan=True)
            assert slot.equal(plain_slot)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("decay", [None, torch.tensor([0.5])])
    def test_scores_that_are_not_finite(self, value, plain, decay):
        """NaN and infinity come first; rows without them are as if there were none anywhere."""
        query, keys = torch.ones(2, 1, 3, 4), torch.randn(2, 1, 1400, 4)
        stamps, newest = torch.arange(1400).expand(2, -1), torch.full((2, 3), 1400)
        clean = torch.ops.memnets.search_slots(query, keys, stamps, 0 * newest, newest, decay, 9, plain)
        keys[0, 0, 1100:1105] = value
        query[1, 0, 1] = value
        scores, slots = torch.ops.memnets.search_slots(query, keys, stamps, 0 * newest, newest, decay, 9, plain)
        assert ((slots >= 0) & (slots < 1400)).all()
        for untouched in ((1, 0, 0), (1, 0, 2)):
            assert scores[untouched].equal(clean[0][untouched])
            assert slots[untouched].equal(clean[1][untouched])
        if value == -torch.inf:
            assert scores[0].equal(clean[0][0])
        else:
            assert slots[0, 0, 0, :5].tolist() == [1100, 1101, 1102, 1103, 1104]
            assert_close(scores[0, 0, 0, :5], torch.full((5,), value), equal_nan=True)
            assert slots[0, 0, 0, 5:].tolist() == clean[1][0, 0, 0, :4].tolist()

    def test_exact_against_all_scores(self):
        """Every score that isn't among the k found is lower, of equal ones the slot is higher."""
        query, keys = torch.randint(-3, 4, (1, 2, 20, 9)).float(), torch.randint(-3, 4, (1, 1, 5000, 9)).float()
        stamps, newest = torch.arange(5000)[None], torch.full((1, 20), 5000)
        scores, slots = torch.ops.memnets.search_slots(query, keys, stamps, 0 * newest, newest, None, 50)
        ranked = torch.sort(query @ keys.mT, dim=-1, descending=True, stable=True)
        assert scores.equal(ranked.values[..., :50])
        assert slots.equal(ranked.indices[..., :50])


class TestOps:
    @pytest.mark.parametrize("shape", [Shape(1, 2, 1, 2, 9, 3, 2, 0.7), Shape(1, 2, 2, 2, 9, 3, 2, 0.7, decay=True)])
    def test_gradients(self, shape):
        given = problem(shape)
        names = [name for name in ("query", "keys", "decay", "values") if getattr(given, name) is not None]

        def outputs(*tensors):
            scores, vectors = read(given._replace(**dict(zip(names, tensors, strict=True))))
            return torch.where(scores == -torch.inf, 0, scores), vectors

        with use_backend("cpu"):
            assert torch.autograd.gradcheck(outputs, given.tensors)

    def test_second_gradients(self):
        given = problem(Shape(1, 2, 1, 2, 6, 2, 2))
        weights, indices = torch.randn(1, 2, 2, 3).double().requires_grad_(), torch.randint(6, (1, 2, 2, 3))
        with use_backend("cpu"):
            assert torch.autograd.gradgradcheck(lambda v, w: read_slots(v, w, indices), (given.values, weights))

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("decay", [True, False])
    def test_torch_knows_them(self, batch, decay):
        given, ops = problem(Shape(batch=batch, decay=decay), torch.float32), torch.ops.memnets
        scores, indices = ops.search_slots(*op_arguments(given))
        weights = scores.detach().masked_fill(scores == -torch.inf, 0).requires_grad_()
        torch.library.opcheck(ops.search_slots.default, op_arguments(given))
        torch.library.opcheck(ops.sum_slots.default, (given.values, weights, indices))
        torch.library.opcheck(ops.dot_slots.default, (given.keys, given.query, indices))
        torch.library.opcheck(ops.scatter_slots.default, (weights, given.query, indices, 2, 70))

    @pytest.mark.parametrize("wanted", ["query", "keys", "decay", "values"])
    def test_a_gradient_costs_only_what_wants_it(self, wanted):
        """A ring that wants no gradient costs no room for one."""
        given = problem(Shape(decay=True))
        whole = dict(zip(("query", "keys", "decay", "values"), results("cpu", given)[2:], strict=True))
        alone = given._replace(**{name: getattr(given, name).detach().requires_grad_(name == wanted) for name in whole})
        with use_backend("cpu"), Traffic() as traffic:
            scores, vectors = read(alone)
            outputs = [out for out in (torch.where(scores == -torch.inf, 0, scores), vectors) if out.requires_grad]
            generator = torch.Generator().manual_seed(1)
            gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in (scores, vectors)]
            (found,) = torch.autograd.grad(outputs, [getattr(alone, wanted)], gradients[-len(outputs) :])
        assert_close(found, whole[wanted], **DOUBLE)
        assert ("memnets.scatter_slots.default" in traffic.kernels) == (wanted in ("keys", "values"))

    def test_same_bits_for_any_number_of_threads(self):
        given = problem(Shape(time=300, heads=4, decay=True), torch.float32)
        one = results("cpu", given)
        torch.set_num_threads(2)
        assert all(a.equal(b) for a, b in zip(one, results("cpu", given), strict=True))

    def test_queries_are_those_alone(self):
        given = problem(Shape(batch=3, time=20, slots=1500, word=16), torch.float32)
        with use_backend("cpu"):
            scores, indices = search(given)
            for b, t in ((0, 0), (1, 7), (2, 19)):
                row, at = slice(b, b + 1), slice(t, t + 1)
                sight = (given.stamps[row], given.oldest[row, at], given.newest[row, at])
                alone = topk_address(given.query[row, :, at], given.keys[row], *sight, given.k)
                assert alone[0].equal(scores[row, :, at])
                assert alone[1].equal(indices[row, :, at])

    def test_autocast_changes_nothing(self):
        given = problem(dtype=torch.float32)
        plain = results("cpu", given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results("cpu", given), plain, strict=True))

    def test_compiles_into_one_graph(self):
        given = problem()

        def total(query):
            scores, indices = torch.ops.memnets.search_slots(query, *op_arguments(given)[1:])
            return torch.ops.memnets.sum_slots(given.values, scores.nan_to_num(neginf=0), indices).square().sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        assert_close(*(torch.autograd.grad(each(given.query), given.query)[0] for each in (compiled, total)))

    def test_transforms_take_the_reference(self):
        given = problem()

        def alone(query):
            return topk_address(query[None], given.keys[:1], *(part[:1] for part in given[2:5]), given.k)[0]

        with use_backend("cpu"), pytest.raises(BackendError, match=r"topk_address: torch\.func transforms"):
            vmap(alone)(given.query)
        assert vmap(alone)(given.query).shape == (2, 1, 4, 5, 4)


class TestRefusals:
    @pytest.mark.parametrize("index", [-1, 70, 2**40])
    def test_slots_that_are_none(self, index):
        given = problem()
        weights, indices = torch.ones(2, 4, 5, 3).double(), torch.zeros(2, 4, 5, 3, dtype=torch.long)
        indices[1, 2, 3, 1] = index
        for call in (
            lambda: torch.ops.memnets.sum_slots(given.values, weights, indices),
            lambda: torch.ops.memnets.dot_slots(given.keys, given.query, indices),
            lambda: torch.ops.memnets.scatter_slots(weights, given.query, indices, 2, 70),
        ):
            with pytest.raises(IndexError, match="indices must be slots from 0 to 69"):
                call()

    def test_shapes_are_checked_before_memory_is_touched(self):
        arguments = list(op_arguments(problem(Shape(decay=True))))
        named = {1: "keys", 2: "stamps", 3: "oldest", 4: "newest", 5: "decay"}
        for i, name in named.items():
            changed = [*arguments[:i], arguments[i][..., :1], *arguments[i + 1 :]]
            with pytest.raises(RuntimeError, match=f"topk_address: {name} must be"):
                torch.ops.memnets.search_slots(*changed)
        for k in (0, 71):
            with pytest.raises(RuntimeError, match="1 <= k <= slots"):
                torch.ops.memnets.search_slots(*arguments[:6], k)
        with pytest.raises(RuntimeError, match="heads must be a multiple of key heads"):
            torch.ops.memnets.search_slots(arguments[0][:, :3], *arguments[1:5], arguments[5][:3], 4)
        indices, ones = torch.zeros(2, 4, 5, 3, dtype=torch.long), torch.ones(2, 4, 5, 3).double()
        with pytest.raises(RuntimeError, match="read_slots: weights must be"):
            torch.ops.memnets.sum_slots(arguments[1], ones[:1], indices)
        with pytest.raises(RuntimeError, match="read_slots: vectors must be"):
            torch.ops.memnets.dot_slots(arguments[1], ones, indices)
