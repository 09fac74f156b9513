"""The op of Memory Networks: its reference against loops over single numbers, its kernel against the reference."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kernel_problems import wrong
from naive import softmax
from torch.func import grad, vmap
from torch.testing import assert_close

from memnets.ops.backend import BackendError, use_backend
from memnets.ops.memory_hops import HopScheme, HopWeights, memory_hops, memory_hops_reference

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}
EXACT = {"rtol": 0, "atol": 0}


class Shape(NamedTuple):
    """Sizes of a problem; `told` is the share of words that are no padding."""

    batch: int = 3
    sentences: int = 6
    words: int = 4
    ids: int = 9
    ages: int = 4
    embedding: int = 5
    hops: int = 3
    told: float = 0.7
    strided: bool = False


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1),
    "one_word": Shape(words=1),
    "one_sentence": Shape(sentences=1),
    "one_row": Shape(batch=1),
    "one_hop": Shape(hops=1),
    "many_hops": Shape(hops=9, embedding=3),
    "nothing_told": Shape(told=0.0),
    "little_told": Shape(told=0.05, batch=9),
    "no_padding": Shape(told=1.0),
    "no_sentences": Shape(sentences=0),
    "no_words": Shape(words=0),
    "paper": Shape(batch=32, sentences=50, words=7, ids=34, ages=50, embedding=20),
    "jointly": Shape(batch=3, sentences=17, words=11, ids=60, ages=50, embedding=50),
    "whole_vectors": Shape(embedding=16, hops=2),
    "beyond_vectors": Shape(batch=5, embedding=17),
    "beyond_a_group": Shape(batch=53),
    "beyond_all_groups": Shape(batch=300, sentences=2),
    "strided": Shape(strided=True),
}
SCHEMES = [
    HopScheme(3, adjacent, position, relu, scale, empty, most_words=6 if position == "centred" else 0)
    for adjacent, position, relu, (scale, empty) in product(
        [True, False], ["none", "paper", "centred"], [True, False], [(1.0, False), (0.4, False), (1.0, True)]
    )
]
LINEAR = {"softmax": None, "linear": torch.tensor(True), "no_longer_linear": torch.tensor(False)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
TIES = {True: "adjacent", False: "layerwise"}
ties = pytest.mark.parametrize("adjacent", TIES, ids=TIES.values())
linears = pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)


class Problem(NamedTuple):
    """Arguments of the op."""

    story: torch.Tensor
    question: torch.Tensor
    weights: HopWeights
    scheme: HopScheme
    ages: torch.Tensor | None = None
    linear: torch.Tensor | None = None

    @property
    def tensors(self):
        return [tensor for tensor in self.weights if tensor is not None]

    def map(self, function):
        """The same with other weights."""
        return self._replace(weights=HopWeights(*(None if w is None else function(w) for w in self.weights)))


def problem(shape=None, scheme=None, linear=None, dtype=torch.float64, seed=0, scale=0.5, time=True, update=True):
    """Random arguments: the same values, bar rounding, for the same seed at any precision."""
    shape = shape or Shape()
    scheme = (scheme or HopScheme(3))._replace(num_hops=shape.hops)
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        tensor = (scale * torch.randn(sizes, generator=generator, dtype=torch.float64)).to(dtype)
        if shape.strided:  # the gaps hold what must not be read
            tensor = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        return tensor.requires_grad_()

    def whole(most, *sizes, share=1.0):
        numbers = torch.randint(1, most + 1, sizes, generator=generator)
        numbers = numbers * (torch.rand(sizes, generator=generator) < share)
        return torch.stack([numbers, ~numbers], dim=-1)[..., 0] if shape.strided else numbers

    tables, story_tables = (shape.hops + 1,) * 2 if scheme.adjacent else (3, 2)
    size = shape.embedding
    weights = HopWeights(
        normal(tables, shape.ids, size),
        normal(story_tables, shape.ages, size) if time else None,
        None if scheme.adjacent or not update else normal(size, size),
    )
    return Problem(
        whole(shape.ids, shape.batch, shape.sentences, shape.words, share=shape.told),
        whole(shape.ids, shape.batch, shape.words, share=shape.told),
        weights,
        scheme,
        whole(shape.ages + 2, shape.batch, shape.sentences, share=0.8) if time else None,
        linear,
    )


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return memory_hops(*given)


@pytest.fixture(scope="module", autouse=True)
def built():
    """The op exists once the kernel is loaded."""
    kernel(*problem())


def results(function, given):
    """The query, and the gradients of all weights for random ones of it."""
    query = function(*given)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(query.shape, generator=generator, dtype=torch.float64).to(query)
    found = torch.autograd.grad(query, given.tensors, gradient, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in given.tensors)
    return [query, *(zero if each is None else each for each, zero in zip(found, zeros, strict=True))]


def op_arguments(given, keep=True):
    """Those of the registered op: with an axis of replicas."""
    tensors = (given.story, given.ages, given.question, *given.weights, given.linear)
    return *(None if tensor is None else tensor[None] for tensor in tensors), *given.scheme, keep


def embed_by_loop(sentence, table, scheme):
    """Σ_j l_j · x_j, padding where it may stand."""
    size, width, total = sum(word != 0 for word in sentence), table.shape[1], np.zeros(table.shape[1])
    most = scheme.most_words + 1
    for j, word in enumerate(sentence, start=1):
        for k in range(1, width + 1) if word else ():
            weight = {
                "none": 1.0,
                "paper": (1 - j / size) - (k / width) * (1 - 2 * j / size),
                "centred": 1 + 4 * (k - (width + 1) / 2) * (j - (most + 1) / 2) / (width * most),
            }[scheme.position_encoding]
            total[k - 1] += weight * table[word - 1, k - 1]
    return total


def by_loop(given):
    """The op, number by number."""
    words, vectors_of_age, update = (None if w is None else w.detach().numpy() for w in given.weights)
    scheme, rows = given.scheme, []
    for b, (story, question) in enumerate(zip(given.story.tolist(), given.question.tolist(), strict=True)):
        slots = []
        for i, sentence in enumerate(story):
            age = 0 if given.ages is None else int(given.ages[b, i])
            time = [table[min(age, len(table)) - 1] for table in vectors_of_age] if age else None
            if any(sentence):
                tables = words if scheme.adjacent else words[:2]
                slot = [embed_by_loop(sentence, table, scheme) for table in tables]
                slots.append([m + t for m, t in zip(slot, time, strict=True)] if time else slot)
        query = embed_by_loop(question, words[0 if scheme.adjacent else 2], scheme)
        for k in range(scheme.num_hops):
            key, value = (k, k + 1) if scheme.adjacent else (0, 1)
            weights = [scheme.scale * float(query @ slot[key]) for slot in slots]
            if slots and not (given.linear is not None and given.linear):
                empty = len(given.story[b]) - len(slots) if scheme.attend_empty else 0
                weights = softmax([*weights, *[0.0] * empty])[: len(slots)]
            found = sum((p * slot[value] for p, slot in zip(weights, slots, strict=True)), np.zeros_like(query))
            query = (query if update is None else update @ query) + found
            query = np.maximum(query, 0) if scheme.relu else query
        rows.append(query)
    return torch.from_numpy(np.array(rows))


class TestReference:
    @pytest.mark.parametrize("scheme", SCHEMES, ids=str)
    @linears
    def test_equals_a_loop_over_single_numbers(self, scheme, linear):
        given = problem(scheme=scheme, linear=linear)
        assert_close(memory_hops_reference(*given).detach(), by_loop(given), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("name", ["one_of_all", "one_word", "one_sentence", "nothing_told", "little_told"])
    def test_equals_it_at_odd_sizes(self, name):
        for time in (True, False):
            given = problem(SHAPES[name], time=time)
            assert_close(memory_hops_reference(*given).detach(), by_loop(given), rtol=1e-9, atol=1e-9)

    def test_under_vmap(self):
        check_replicas(memory_hops_reference, replicas())


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    @ties
    @linears
    def test_float64(self, shape, adjacent, linear):
        given = problem(shape, HopScheme(3, adjacent), linear, scale=0.3)
        assert_close(results(kernel, given), results(memory_hops_reference, given), **DOUBLE)

    @pytest.mark.parametrize("scheme", SCHEMES, ids=str)
    @pytest.mark.parametrize("time", [True, False])
    @linears
    def test_float64_of_every_scheme(self, scheme, time, linear):
        given = problem(scheme=scheme, linear=linear, time=time)
        assert_close(results(kernel, given), results(memory_hops_reference, given), **DOUBLE)

    def test_without_an_update(self):
        given = problem(scheme=HopScheme(3, adjacent=False), update=False)
        assert_close(results(kernel, given), results(memory_hops_reference, given), **DOUBLE)

    @pytest.mark.parametrize("name", ["odd", "paper", "jointly", "whole_vectors", "beyond_vectors", "strided"])
    @ties
    def test_float32_errs_no_more_than_the_reference(self, name, adjacent):
        assert wrong(*in_float32(SHAPES[name], HopScheme(3, adjacent))) == {}

    @ties
    def test_a_wrong_row_is_caught(self, adjacent):
        actual, reference, exact = in_float32(Shape(), HopScheme(3, adjacent), seeds=3)
        for i in range(len(exact[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    @ties
    def test_nothing_uninitialised_is_kept(self, adjacent):
        given = problem(Shape(told=0.2), HopScheme(3, adjacent))
        outputs = torch.ops.memnets.memory_hops_forward(*op_arguments(given))
        assert all(output.isfinite().all() for output in outputs)

    @ties
    def test_without_gradients(self, adjacent):
        """Nothing is kept, and no result changes."""
        given = problem(scheme=HopScheme(3, adjacent))
        with torch.no_grad():
            assert kernel(*given).equal(kernel(*given.map(torch.clone)))
            _, *kept = torch.ops.memnets.memory_hops_forward(*op_arguments(given, keep=False))
        assert [each.numel() for each in kept] == [0, 0]
        assert kernel(*given).equal(torch.ops.memnets.memory_hops_forward(*op_arguments(given, keep=False))[0][0])

    @pytest.mark.parametrize("wanted", list(product([True, False], repeat=3))[:-1])
    def test_gradients_of_what_wants_them(self, wanted):
        given = problem(scheme=HopScheme(3, adjacent=False))
        whole = results(kernel, given)[1:]
        wants = iter(wanted)
        some = given.map(lambda weight: weight.detach().requires_grad_(next(wants)))
        query = kernel(*some)
        generator = torch.Generator().manual_seed(1)
        gradient = torch.randn(query.shape, generator=generator, dtype=torch.float64)
        found = torch.autograd.grad(query, [weight for weight in some.weights if weight.requires_grad], gradient)
        expected = [each for each, want in zip(whole, wanted, strict=True) if want]
        assert_close(list(found), expected, **EXACT)

    def test_low_precision_is_computed_in_float32(self):
        given = problem(dtype=torch.bfloat16)
        wide = given.map(lambda tensor: tensor.detach().float().requires_grad_())
        for got, want in zip(results(kernel, given), results(kernel, wide), strict=True):
            assert got.dtype == torch.bfloat16
            assert_close(got.double(), want.double(), rtol=0.01, atol=0.01 * want.abs().max().item())


def in_float32(shape, scheme, seeds=5):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(seeds):
        narrow = problem(shape, scheme, dtype=torch.float32, scale=0.3, seed=seed)
        wide = narrow.map(lambda tensor: tensor.detach().double().requires_grad_())
        functions = (kernel, narrow), (memory_hops_reference, narrow), (memory_hops_reference, wide)
        found.append([results(function, given) for function, given in functions])
    return list(zip(*found, strict=True))


def replicas(adjacent=True, number=3):
    """Problems that differ in everything but their sizes; every other one is linear."""
    scheme = HopScheme(3, adjacent, relu=True)
    return [problem(scheme=scheme, linear=torch.tensor(seed % 2 == 0), seed=seed) for seed in range(number)]


def check_replicas(function, problems):
    """All problems at once are each alone: results and gradients."""
    scheme = problems[0].scheme
    weights = [torch.stack(each).detach().requires_grad_() for each in zip(*(p.tensors for p in problems), strict=True)]
    given = [torch.stack([getattr(p, name) for p in problems]) for name in ("story", "question", "ages", "linear")]

    def one(story, question, ages, linear, *weights):
        return function(story, question, HopWeights(*weights), scheme, ages, linear)

    queries = vmap(one)(*given, *weights)
    gradients = torch.autograd.grad(queries.square().sum(), weights)
    for r, alone in enumerate(problems):
        query = function(*alone)
        assert_close(queries[r], query, **DOUBLE)
        for got, want in zip(gradients, torch.autograd.grad(query.square().sum(), alone.tensors), strict=True):
            assert_close(got[r], want, **DOUBLE)


class TestReplicas:
    @ties
    def test_vmap_is_a_loop_over_them(self, adjacent):
        check_replicas(kernel, replicas(adjacent))

    def test_without_gradients(self):
        given = problem()
        with torch.no_grad():
            queries = vmap(lambda words: kernel(*given._replace(weights=given.weights._replace(words=words))))(
                torch.stack([given.weights.words, 2 * given.weights.words])
            )
        assert queries[0].equal(kernel(*given))

    def test_what_they_share_is_expanded(self):
        """One story, one question and one table of ages for all: its gradient is the sum."""
        given, factors = problem(), torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)

        def one(factor):
            return kernel(*given._replace(weights=given.weights._replace(words=factor * given.weights.words)))

        found = torch.autograd.grad(vmap(one)(factors).square().sum(), given.tensors)
        looped = torch.autograd.grad(torch.stack([one(each) for each in factors]).square().sum(), given.tensors)
        assert_close(found, looped, **DOUBLE)

    def test_vmap_within_vmap(self):
        given, factors = problem(), torch.tensor([[1.0, 0.5, 0.3], [2.0, 0.0, -1.0]], dtype=torch.float64)

        def one(factor):
            return kernel(*given._replace(weights=given.weights._replace(words=factor * given.weights.words)))

        queries = vmap(vmap(one))(factors)
        looped = torch.stack([one(each) for each in factors.flatten()]).unflatten(0, (2, 3))
        assert_close(queries, looped, **DOUBLE)
        found, expected = (torch.autograd.grad(each.square().sum(), given.tensors) for each in (queries, looped))
        assert_close(found, expected, **DOUBLE)

    def test_the_registered_op_s_own_rule(self):
        """Without any Python of ours around it."""
        given = problem(linear=torch.tensor(False))
        factors = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
        arguments = op_arguments(given)

        def one(factor):
            words = factor * arguments[3]
            return torch.ops.memnets.memory_hops_forward(*arguments[:3], words, *arguments[4:-1], False)[0]

        queries = vmap(one)(factors)
        found = torch.autograd.grad(queries.square().sum(), given.tensors)
        scaled = [given._replace(weights=given.weights._replace(words=each * given.weights.words)) for each in factors]
        looped = torch.stack([kernel(*each) for each in scaled])
        assert_close(queries[:, 0], looped, **DOUBLE)
        assert_close(found, torch.autograd.grad(looped.square().sum(), given.tensors), **DOUBLE)

    def test_other_transforms_take_the_reference(self):
        given = problem().map(torch.Tensor.detach)

        def total(words):
            return memory_hops(*given._replace(weights=given.weights._replace(words=words))).square().sum()

        with use_backend("cpu"), pytest.raises(BackendError, match=r"memory_hops: of torch\.func's transforms"):
            grad(total)(given.weights.words)
        words = given.weights.words.clone().requires_grad_()
        assert_close(grad(total)(given.weights.words), torch.autograd.grad(total(words), words)[0], **DOUBLE)


class TestOp:
    @ties
    @linears
    def test_gradients(self, adjacent, linear):
        given = problem(Shape(2, 3, 3, 4, 2, 3, 2), HopScheme(2, adjacent), linear)

        def query(*tensors):
            rest = iter(tensors)
            return kernel(*given.map(lambda _: next(rest)))

        assert torch.autograd.gradcheck(query, given.tensors)

    def test_same_bits_for_any_number_of_threads(self):
        given = problem(Shape(batch=300, embedding=20), dtype=torch.float32)
        one = results(kernel, given)
        torch.set_num_threads(2)
        assert all(a.equal(b) for a, b in zip(one, results(kernel, given), strict=True))

    @ties
    def test_rows_are_those_alone(self, adjacent):
        given = problem(Shape(batch=20), HopScheme(3, adjacent), dtype=torch.float32)
        together = kernel(*given)
        for b in range(20):
            row = slice(b, b + 1)
            alone = given._replace(story=given.story[row], question=given.question[row], ages=given.ages[row])
            assert kernel(*alone).equal(together[row])

    def test_nan_stays_where_it_is(self):
        given = problem(Shape(batch=4, told=1.0))
        given.weights.words.data[:, 0] = torch.nan
        story = given.story.where(given.story != 1, 2)
        story[1, 2, 0] = 1
        query = kernel(*given._replace(story=story, question=given.question.where(given.question != 1, 2)))
        assert query[1].isnan().all()
        assert query[[0, 2, 3]].isfinite().all()

    @pytest.mark.parametrize("scale", [1e2, 1e15])
    def test_great_scores_give_no_nan(self, scale):
        given = problem(scheme=HopScheme(1, scale=scale), shape=Shape(hops=1), dtype=torch.float32)
        assert all(each.isfinite().all() for each in results(kernel, given))
        assert_close(kernel(*given), memory_hops_reference(*given), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("batch", [1, 3])
    @ties
    def test_torch_knows_the_op(self, batch, adjacent):
        given = problem(Shape(batch=batch), HopScheme(3, adjacent), torch.tensor(False))
        forward, backward = (
            getattr(torch.ops.memnets, f"memory_hops_{way}").default for way in ("forward", "backward")
        )
        torch.library.opcheck(forward, op_arguments(given))
        torch.library.opcheck(forward, op_arguments(given, keep=False), test_utils=("test_schema", "test_faketensor"))
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in op_arguments(given)]
        query, *kept = forward(*plain)
        for wanted in ((True, True, not adjacent), (False, False, False), (False, True, False)):
            torch.library.opcheck(backward, (torch.ones_like(query), *plain[:7], *kept, *given.scheme, *wanted))

    def test_compiles_into_one_graph(self):
        given = problem()

        arguments = op_arguments(given)

        def total(words):
            query, *_ = torch.ops.memnets.memory_hops_forward(*arguments[:3], words[None], *arguments[4:])
            return query.square().sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        words = given.weights.words
        assert_close(*(torch.autograd.grad(each(words), words)[0] for each in (compiled, total)), **DOUBLE)

    def test_autocast_changes_nothing(self):
        given = problem(dtype=torch.float32)
        plain = results(kernel, given)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, given), plain, strict=True))

    def test_second_derivatives_are_refused(self):
        given = problem()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(kernel(*given).sum(), given.tensors, create_graph=True)


class TestRefusals:
    @pytest.mark.parametrize("word", [-1, 10, 2**40])
    def test_words_that_are_none(self, word):
        given = problem()
        for name in ("story", "question"):
            ids = getattr(given, name).clone()
            ids.view(-1)[0] = word
            with pytest.raises(IndexError, match="words must be ids from 0 to 9"):
                kernel(*given._replace(**{name: ids}))

    def test_ages_below_none(self):
        given = problem(Shape(told=1.0))
        with pytest.raises(IndexError, match="ages no less than 0"):
            kernel(*given._replace(ages=given.ages - 100))

    def test_shapes_are_checked_before_memory_is_touched(self):
        given = problem(scheme=HopScheme(3, adjacent=False), linear=torch.tensor(True))
        arguments = list(op_arguments(given))
        named = {1: "ages", 2: "question", 3: "words", 4: "age vectors", 5: "update"}
        for i, name in named.items():
            changed = [*arguments[:i], arguments[i][:, :1], *arguments[i + 1 :]]
            with pytest.raises(RuntimeError, match=f"memory_hops: {name} must be"):
                torch.ops.memnets.memory_hops_forward(*changed)

    def test_what_does_not_fit_the_scheme(self):
        given = problem()
        for changed, message in [
            (given._replace(scheme=HopScheme(2)), "3 tables of words fit"),
            (given._replace(scheme=HopScheme(0)), "num_hops must be at least 1"),
            (given._replace(ages=None), "give both, or neither"),
            (problem(scheme=HopScheme(3, adjacent=False))._replace(scheme=HopScheme(2)), "have no update H"),
        ]:
            with pytest.raises(ValueError, match=message):
                memory_hops(*changed)
