"""The Triton kernel of `memory_hops` against its reference, in the interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import wrong
from test_memory_hops import (
    DOUBLE,
    LINEAR,
    SCHEMES,
    SHAPES,
    TIES,
    Shape,
    check_replicas,
    memory_hops_reference,
    problem,
    replicas,
    results,
    ties,
)
from tiers import but_for_interpreted, long_interpreted
from torch.testing import assert_close

from memnets.kernels.triton import launch
from memnets.kernels.triton.rows import scatter_rows, sum_rows
from memnets.ops.backend import BackendError, use_backend
from memnets.ops.memory_hops import HopScheme, memory_hops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME_SCHEMES = SCHEMES[::10]
"""Every choice that a scheme has is among them, though not every two together."""
FEW = ["odd", "one_of_all", "one_sentence", "nothing_told", "little_told", "beyond_vectors", "strided"]


def on_device(given):
    """The problem there, of leaves."""
    moved = given.map(lambda weight: weight.detach().to(DEVICE).requires_grad_() if DEVICE == "cuda" else weight)
    tensors = {name: getattr(given, name) for name in ("story", "question", "ages", "linear")}
    return moved._replace(**{name: None if t is None else t.to(DEVICE) for name, t in tensors.items()})


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("triton"):
        return memory_hops(*given)


def both(given):
    """Results of the kernel and of the reference."""
    given = on_device(given)
    return results(kernel, given), results(memory_hops_reference, given)


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @pytest.mark.parametrize("name", but_for_interpreted(FEW, ["odd", "nothing_told", "strided"].__contains__))
    @ties
    def test_float64(self, name, adjacent):
        assert_close(*both(problem(SHAPES[name], HopScheme(3, adjacent), scale=0.3)), **DOUBLE)

    @pytest.mark.parametrize("scheme", but_for_interpreted(SCHEMES, SOME_SCHEMES.__contains__))
    @pytest.mark.parametrize("linear", but_for_interpreted(LINEAR, "softmax".__eq__))
    def test_float64_of_every_scheme(self, scheme, linear):
        assert_close(*both(problem(scheme=scheme, linear=LINEAR[linear])), **DOUBLE)

    @ties
    def test_without_time_and_update(self, adjacent):
        assert_close(*both(problem(scheme=HopScheme(3, adjacent), time=False, update=False)), **DOUBLE)

    @pytest.mark.parametrize("adjacent", but_for_interpreted([True, False], bool, TIES.__getitem__))
    @pytest.mark.parametrize("linear", but_for_interpreted(LINEAR, "linear".__eq__))
    def test_float64_in_many_blocks(self, adjacent, linear, monkeypatch):
        monkeypatch.setattr(launch, "TILE", 1)
        assert_close(*both(problem(Shape(sentences=11), HopScheme(3, adjacent), LINEAR[linear])), **DOUBLE)

    @pytest.mark.parametrize("empty", but_for_interpreted([False, True], lambda empty: not empty))
    def test_float32_errs_no_more_than_the_reference(self, empty):
        assert wrong(*in_float32(HopScheme(3, attend_empty=empty))) == {}

    @long_interpreted
    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(HopScheme(3), seeds=3)
        for i in range(len(exact[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    def test_repeats_bit_for_bit(self):
        given = on_device(problem(dtype=torch.float32))
        one, two = (results(kernel, given) for _ in range(2))
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))

    @ties
    def test_autocast_changes_nothing(self, adjacent):
        given = on_device(problem(scheme=HopScheme(3, adjacent), dtype=torch.float32))
        plain = results(kernel, given)
        with torch.autocast(DEVICE, torch.bfloat16):
            assert all(a.equal(b) for a, b in zip(results(kernel, given), plain, strict=True))

    def test_a_word_that_is_not_there_is_not_looked_at(self):
        """Nor by padding; its age neither by what is not told."""
        given = problem(Shape(batch=4))
        given.weights.words.data[:, 0] = torch.nan
        given.weights.ages.data[:, 0] = torch.nan
        given = on_device(given._replace(ages=given.ages + (given.ages == 1).long()))
        given = given._replace(story=given.story * (given.story != 1), question=given.question * (given.question != 1))
        assert all(each[..., 1:, :].isfinite().all() for each in results(kernel, given)[1:])
        assert kernel(*given).isfinite().all()

    def test_words_and_ages_that_are_none(self):
        given = problem()
        for name, wrong_id in (("story", -1), ("question", 10), ("ages", -1)):
            ids = getattr(given, name).clone()
            ids.view(-1)[0] = wrong_id
            if DEVICE == "cpu":  # on a GPU the process could not go on
                with pytest.raises(RuntimeError, match=r"ids from 0 to 9|ages no less than 0"):
                    kernel(*given._replace(**{name: ids}))

    def test_low_precision_is_computed_in_float32(self):
        given = on_device(problem(dtype=torch.bfloat16))
        wide = given.map(lambda tensor: tensor.detach().float().requires_grad_())
        for got, want in zip(results(kernel, given), results(kernel, wide), strict=True):
            assert got.dtype == torch.bfloat16
            assert_close(got.double(), want.double(), rtol=0.01, atol=0.01 * want.abs().max().item())


def in_float32(scheme, seeds=5):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(seeds):
        narrow = on_device(problem(scheme=scheme, dtype=torch.float32, scale=0.3, seed=seed))
        wide = narrow.map(lambda tensor: tensor.detach().double().requires_grad_())
        functions = (kernel, narrow), (memory_hops_reference, narrow), (memory_hops_reference, wide)
        found.append([results(function, given) for function, given in functions])
    return list(zip(*found, strict=True))


def test_an_index_of_minus_one_chooses_nothing():
    """In every group, whatever its values hold: what hops make of padding."""
    values = torch.randn(2, 3, 4, dtype=torch.double, device=DEVICE)
    values[:, 0] = torch.nan
    weights = torch.rand(2, 5, 2, dtype=torch.double, device=DEVICE)
    indices = torch.tensor([-1, 2], device=DEVICE).expand(2, 5, 2)
    assert_close(sum_rows(values, weights, indices), weights[..., 1:] * values[:, None, 2])
    vectors = torch.randn(2, 5, 4, dtype=torch.double, device=DEVICE)
    expected = torch.zeros_like(values)
    expected[:, 2] = (weights[..., 1:] * vectors).sum(1)
    assert_close(scatter_rows(weights, vectors, indices, 3, torch.double), expected)


class TestOp:
    @pytest.mark.parametrize("adjacent", but_for_interpreted([True, False], bool, TIES.__getitem__))
    def test_vmap_is_a_loop_over_replicas(self, adjacent):
        check_replicas(kernel, [on_device(each) for each in replicas(adjacent)])

    @pytest.mark.parametrize("batch", but_for_interpreted([1, 3], lambda batch: batch == 3))
    @ties
    def test_torch_knows_it(self, batch, adjacent):
        shape = (batch, 6, 4 if adjacent else 2, 5)
        slots, query = (torch.randn(size, device=DEVICE, requires_grad=True) for size in (shape, (batch, 5)))
        told = torch.rand(shape[:2], device=DEVICE) < 0.7
        update = None if adjacent else torch.randn(1, 5, 5, device=DEVICE, requires_grad=True)
        options = (3, adjacent, True, 0.5, False)
        forward = torch.ops.memnets.hops_triton.default
        torch.library.opcheck(forward, (slots, query, told, update, None, *options), test_utils=CHECKS)
        found = forward(slots.detach(), query.detach(), told, None if adjacent else update.detach(), None, *options)
        given = (torch.ones_like(query), slots.detach(), told, None if adjacent else update.detach(), None, *found)
        backward = torch.ops.memnets.hops_triton_backward.default
        torch.library.opcheck(backward, (*given, *options[1:4]))

    def test_auto_takes_it_on_a_gpu_only(self):
        given = on_device(problem())
        with launch.recorded(run=True) as launches:
            results(memory_hops, given)
        assert bool(launches) == (DEVICE == "cuda")

    def test_says_what_it_cant_serve(self):
        given = problem(Shape(embedding=65), HopScheme(3, adjacent=False))
        with pytest.raises(BackendError, match="H is more than 64 wide: 65"):
            kernel(*given)

    @pytest.mark.parametrize("name", ["no_sentences", "no_words"])
    def test_no_words_are_for_the_reference(self, name):
        with pytest.raises(BackendError, match="there is nothing to run"):
            kernel(*on_device(problem(SHAPES[name])))


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
"""Its gradient is that of the last query alone: a check of all results' gradients would ask for those of the others."""
