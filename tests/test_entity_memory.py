"""The op of entity networks: its kernel against the reference, which loops check in test_entity_network.py."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from kernel_problems import wrong
from torch.func import vmap
from torch.testing import assert_close

from memnets.ops.backend import BackendError, use_backend
from memnets.ops.entity_memory import CellWeights, entity_memory, entity_memory_reference

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}


class Shape(NamedTuple):
    """Sizes of a problem; stories have 0 to `sentences` of these."""

    batch: int = 3
    sentences: int = 5
    slots: int = 4
    word: int = 5
    strided: bool = False


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1),
    "one_sentence": Shape(sentences=1),
    "one_slot": Shape(slots=1),
    "one_row": Shape(batch=1),
    "paper": Shape(batch=32, sentences=10, slots=20, word=100),
    "long": Shape(batch=2, sentences=70, slots=6, word=9),
    "whole_vectors": Shape(slots=16, word=16),
    "beyond_vectors": Shape(slots=17, word=17),
    "beyond_a_group": Shape(batch=19),
    "beyond_all_groups": Shape(batch=150, sentences=2),
    "strided": Shape(strided=True),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class Problem(NamedTuple):
    """Arguments of the op."""

    memory: torch.Tensor
    sentences: torch.Tensor
    lengths: torch.Tensor
    weights: CellWeights

    @property
    def tensors(self):
        return [self.memory, self.sentences, *self.weights]

    def map(self, function):
        """The same with other numbers."""
        weights = CellWeights(*map(function, self.weights))
        return Problem(function(self.memory), function(self.sentences), self.lengths, weights)

    def rows(self, rows):
        return self._replace(memory=self.memory[rows], sentences=self.sentences[rows], lengths=self.lengths[rows])


def problem(shape=None, dtype=torch.float64, seed=0, scale=0.5):
    """Random arguments: the same values, bar rounding, for the same seed at any precision."""
    shape = shape or Shape()
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        tensor = (scale * torch.randn(sizes, generator=generator, dtype=torch.float64)).to(dtype)
        if shape.strided:  # the gaps hold what must not be read
            tensor = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        return tensor.requires_grad_()

    batch, sentences, slots, word = shape[:4]
    lengths = torch.randint(sentences + 1, (batch,), generator=generator)
    lengths[-1] = sentences
    matrices = (normal(word, word) for _ in range(3))
    weights = CellWeights(normal(slots, word), *matrices, normal(slots), normal(word), normal(word))
    return Problem(normal(batch, slots, word), normal(batch, sentences, word), lengths, weights)


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return entity_memory(*given)


@pytest.fixture(scope="module", autouse=True)
def built():
    """The op exists once the kernel is loaded."""
    kernel(*problem())


def results(function, given):
    """The memory, and the gradients of all tensors for random ones of it."""
    memory = function(*given)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(memory.shape, generator=generator, dtype=torch.float64).to(memory)
    return [memory, *torch.autograd.grad(memory, given.tensors, gradient)]


def op_arguments(given, keep=True):
    """Those of the registered op, made up anew: any numbers will do."""
    (batch, slots, word), sentences = given.memory.shape, given.sentences.shape[1]
    generator = torch.Generator().manual_seed(2)
    sizes = (batch, sentences, slots), (batch, sentences, word), (slots, word), (word, word), (word,)
    made = (torch.randn(size, generator=generator, dtype=given.memory.dtype).requires_grad_() for size in sizes)
    return given.memory, given.sentences, given.lengths, *made, keep


@pytest.mark.usefixtures("poisoned")
class TestAgainstReference:
    @shapes
    def test_float64(self, shape):
        given = problem(shape)
        assert_close(results(kernel, given), results(entity_memory_reference, given), **DOUBLE)

    @pytest.mark.parametrize("name", ["odd", "paper", "long", "whole_vectors", "beyond_vectors", "strided"])
    def test_float32_errs_no_more_than_the_reference(self, name):
        assert wrong(*in_float32(SHAPES[name])) == {}

    def test_a_wrong_row_is_caught(self):
        actual, reference, exact = in_float32(Shape(), seeds=3)
        for i in range(len(exact[0])):
            planted = [[part.clone() for part in parts] for parts in actual]
            for parts in planted:
                parts[i][-1] += 1e-4 * parts[i].abs().max()
            assert list(wrong(planted, reference, exact)) == [i]

    def test_nothing_uninitialised_is_kept(self):
        given = problem(Shape(batch=9))
        assert (given.lengths < 5).any()
        assert all(output.isfinite().all() for output in torch.ops.memnets.entity_memory_forward(*op_arguments(given)))

    def test_without_gradients(self):
        """Nothing is kept, and no result changes."""
        given = problem()
        with torch.no_grad():
            without = kernel(*given)
            _, *kept = torch.ops.memnets.entity_memory_forward(*op_arguments(given, keep=False))
        assert [each.numel() for each in kept] == [0, 0, 0]
        assert kernel(*given).equal(without)

    def test_low_precision_is_computed_in_float32(self):
        given = problem(dtype=torch.bfloat16)
        wide = given.map(lambda tensor: tensor.detach().float().requires_grad_())
        for got, want in zip(results(kernel, given), results(kernel, wide), strict=True):
            assert got.dtype == torch.bfloat16
            assert_close(got.double(), want.double(), rtol=0.01, atol=0.01 * want.abs().max().item())

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8])
    def test_cells_without_a_direction(self, scale):
        """Nothing is written into cells of next to nothing: they stay as they are, and so do their gradients."""
        given = problem(dtype=torch.float32)
        small = given.map(lambda tensor: (scale * tensor.detach()).requires_grad_())
        assert_close(results(kernel, small), results(entity_memory_reference, small))

    def test_what_lies_behind_a_story_is_not_read(self):
        given = problem(Shape(batch=9))
        behind = torch.arange(5) >= given.lengths[:, None]
        filled = given._replace(sentences=given.sentences.detach().masked_fill(behind[..., None], torch.nan))
        filled.sentences.requires_grad_()
        assert_close(results(kernel, filled), results(kernel, given), rtol=0, atol=0)


def in_float32(shape, seeds=5):
    """Per seed: results of the kernel, of the reference, and of the reference in float64 on the same numbers."""
    found = []
    for seed in range(seeds):
        narrow = problem(shape, torch.float32, seed, scale=0.3)
        wide = narrow.map(lambda tensor: tensor.detach().double().requires_grad_())
        functions = (kernel, narrow), (entity_memory_reference, narrow), (entity_memory_reference, wide)
        found.append([results(function, given) for function, given in functions])
    return list(zip(*found, strict=True))


class TestOp:
    def test_gradients(self):
        given = problem(Shape(2, 3, 2, 3))

        def memory(memory, sentences, *weights):
            return kernel(memory, sentences, given.lengths, CellWeights(*weights))

        assert torch.autograd.gradcheck(memory, given.tensors)

    def test_same_bits_for_any_number_of_threads(self):
        given = problem(Shape(batch=150, slots=20, word=20), torch.float32)
        one = results(kernel, given)
        torch.set_num_threads(2)
        assert all(a.equal(b) for a, b in zip(one, results(kernel, given), strict=True))

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
    def test_lengths_of_any_whole_numbers(self, dtype):
        given = problem()
        assert kernel(*given._replace(lengths=given.lengths.to(dtype))).equal(kernel(*given))

    def test_gradients_of_what_wants_them(self):
        """A memory that all stories share, as a model's keys, and one weight."""
        given = problem().map(torch.Tensor.detach)
        keys, bias = (tensor.clone().requires_grad_() for tensor in (given.memory[0], given.weights.candidate_bias))
        weights = given.weights._replace(candidate_bias=bias)

        def gradients(function):
            memory = function(keys.expand(3, -1, -1), given.sentences, given.lengths, weights)
            loss = memory.square().mul(torch.arange(5.0)).sum()
            twice = [torch.autograd.grad(loss, (keys, bias), retain_graph=True) for _ in range(2)]
            assert all(a.equal(b) for a, b in zip(*twice, strict=True))
            return twice[0]

        assert_close(gradients(kernel), gradients(entity_memory_reference), **DOUBLE)

    def test_rows_are_those_alone(self):
        given = problem(Shape(batch=20), torch.float32)
        together = kernel(*given)
        for b in range(20):
            assert_close(kernel(*given.rows(slice(b, b + 1))), together[b : b + 1], rtol=1e-5, atol=1e-6)

    def test_nan_stays_where_it_is(self):
        given = problem(Shape(batch=4)).map(lambda tensor: tensor.detach())
        given.lengths[:] = 5
        given.sentences[1, 2, 0] = torch.nan
        given.memory[3, 1, 0] = torch.nan
        memory = kernel(*given)
        assert memory[1].isnan().all()
        assert memory[3, 1].isnan().all()
        assert memory[[0, 2]].isfinite().all()
        assert memory[3, [0, 2, 3]].isfinite().all()

    @pytest.mark.parametrize("batch", [1, 3])
    def test_torch_knows_the_op(self, batch):
        arguments = op_arguments(problem(Shape(batch=batch)))
        ops = (getattr(torch.ops.memnets, f"entity_memory_{way}").default for way in ("forward", "backward"))
        forward, backward = ops
        torch.library.opcheck(forward, arguments)
        torch.library.opcheck(forward, (*arguments[:-1], False), test_utils=("test_schema", "test_faketensor"))
        plain = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
        memory, *kept = forward(*plain)
        torch.library.opcheck(backward, (torch.ones_like(memory), *plain[1:-1], *kept))

    def test_compiles_into_one_graph(self):
        given = problem()
        _, *others = op_arguments(given)

        def total(memory):
            return torch.ops.memnets.entity_memory_forward(memory, *others)[0].square().sum()

        torch._dynamo.reset()
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        memory = given.memory
        assert_close(*(torch.autograd.grad(each(memory), memory)[0] for each in (compiled, total)), **DOUBLE)

    def test_autocast_changes_nothing(self):
        given = problem(dtype=torch.float32)

        def in_autocast(*given):
            with torch.autocast("cpu", torch.bfloat16):
                return kernel(*given)

        plain = results(kernel, given)
        assert all(a.equal(b) for a, b in zip(results(in_autocast, given), plain, strict=True))

    def test_second_derivatives_are_refused(self):
        given = problem()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(kernel(*given).sum(), given.tensors, create_graph=True)


class TestRefusals:
    @pytest.mark.parametrize("length", [-1, 6])
    def test_lengths_that_cannot_be(self, length):
        given = problem()
        lengths = given.lengths.clone()
        lengths[1] = length
        for function in (
            kernel,
            lambda *given: torch.ops.memnets.entity_memory_forward(*op_arguments(Problem(*given))),
        ):
            with pytest.raises((ValueError, RuntimeError), match="lengths must be"):
                function(*given._replace(lengths=lengths))

    def test_shapes_are_checked_before_memory_is_touched(self):
        arguments = op_arguments(problem())
        for i in range(len(arguments) - 1):
            with pytest.raises(RuntimeError, match=r"entity_memory: .* must be"):
                torch.ops.memnets.entity_memory_forward(*arguments[:i], arguments[i][:-1], *arguments[i + 1 :])

    def test_vmap_is_served_by_the_reference(self):
        given = problem()
        memories = torch.stack([given.memory, given.memory + 1])

        def after(memory):
            return entity_memory(memory, *given[1:])

        assert_close(vmap(after)(memories), torch.stack([after(memory) for memory in memories]), **DOUBLE)
        with use_backend("cpu"), pytest.raises(BackendError, match=r"entity_memory: torch\.func transforms"):
            vmap(after)(memories)
