"""Problems for SAM's sequence kernel: random arguments at sizes where mistakes show."""

from __future__ import annotations

from typing import NamedTuple

import torch

from memnets.ops.backend import use_backend
from memnets.ops.sam_sequence import (
    SAMAccessState,
    SAMScheme,
    SAMSequenceState,
    sam_sequence,
    sam_sequence_reference,
    with_room,
)
from memnets.ops.sequence import SequenceWeights


class Shape(NamedTuple):
    """Sizes of a problem, in which `held` of the slots are given; with `strided`, tensors are views with gaps."""

    batch: int = 3
    time: int = 5
    inputs: int = 3
    hidden: int = 5
    held: int = 9
    slots: int = 100
    word: int = 6
    heads: int = 2
    k: int = 3
    strided: bool = False
    layers: int = 1
    threshold: float = 0.005


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1, 1, 1),
    "nothing_held": Shape(held=0),
    "nothing_held_for_long": Shape(held=0, time=12),
    "soon_full": Shape(held=9, slots=13),
    "full": Shape(held=7, slots=7),
    "full_for_long": Shape(held=7, slots=7, time=14),
    "all_heads": Shape(held=4, slots=4, heads=4, k=2),
    "all_reads": Shape(held=4, slots=4, k=4),
    "one_word": Shape(word=1),
    "one_step": Shape(time=1),
    "no_inputs": Shape(inputs=0),
    "beyond_a_panel": Shape(held=33, heads=3, k=5, word=17),
    "beyond_a_chunk": Shape(batch=27, time=3, hidden=33),
    "paper": Shape(batch=2, hidden=20, held=40, word=20, heads=4, k=4),
    "all_used_enough": Shape(threshold=0.0, time=9),
    "little_used_enough": Shape(threshold=0.4, time=9, held=20, slots=22),
    "never_used_enough": Shape(threshold=9.0, time=9, held=20, slots=22),
    "three_layers": Shape(layers=3),
    "strided": Shape(strided=True),
}


class Problem(NamedTuple):
    """Arguments of `sam_sequence`."""

    inputs: torch.Tensor
    state: SAMSequenceState
    weights: SequenceWeights
    scheme: SAMScheme
    lengths: torch.Tensor | None = None

    @property
    def tensors(self):
        """Those that have gradients."""
        given = (self.inputs, *self.state, *self.weights)
        return [tensor for tensor in given if tensor is not None and tensor.is_floating_point()]

    def map(self, function):
        """The same with other floating tensors."""
        state, weights = (type(part)(*map(function_of(function), part)) for part in (self.state, self.weights))
        return self._replace(inputs=function(self.inputs), state=state, weights=weights)


def function_of(function):
    return lambda tensor: tensor if tensor is None or not tensor.is_floating_point() else function(tensor)


def problem(shape=None, lstm=True, dtype=torch.float64, seed=0, scale=1.0):
    """Random arguments: the same values, bar rounding, for the same seed at any precision."""
    shape = shape or Shape()
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return place(scale * torch.randn(sizes, generator=generator, dtype=torch.float64))

    def place(tensor):
        tensor = tensor.to(dtype)
        if shape.strided:  # the gaps hold what must not be read
            tensor = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        return tensor.requires_grad_()

    def whole(below, *sizes):
        numbers = torch.randint(below, sizes, generator=generator)
        return torch.stack([numbers, ~numbers], dim=-1)[..., 0] if shape.strided else numbers

    batch, heads, k, held = shape.batch, shape.heads, shape.k, shape.held
    layers = shape.layers if lstm else 1
    gates, interface = (4 if lstm else 1) * shape.hidden, heads * (2 * shape.word + 3)
    first = torch.arange(k).expand(batch, heads, k)
    state = SAMSequenceState(
        normal(batch, held, shape.word),
        place(torch.randn(batch, heads, k, generator=generator, dtype=torch.float64).softmax(-1)),
        place(torch.rand(batch, heads, k + 1, generator=generator, dtype=torch.float64)),
        whole(4, batch, held),
        torch.full([batch], 3),
        whole(held, batch, heads, k) if held >= k else first,
        whole(held, batch, heads, k + 1) if held > k else torch.zeros(batch, heads, k + 1, dtype=torch.long),
        normal(batch, heads, shape.word),
        normal(batch, layers, shape.hidden) if lstm else None,
        normal(batch, layers, shape.hidden) if lstm else None,
    )
    weights = SequenceWeights(
        normal(gates, shape.inputs + heads * shape.word),
        normal(gates, shape.hidden) if lstm else None,
        normal(gates),
        normal(layers - 1, gates, 2 * shape.hidden) if layers > 1 else None,
        normal(layers - 1, gates) if layers > 1 else None,
        normal(interface, shape.hidden),
        normal(interface),
    )
    return Problem(normal(batch, shape.time, shape.inputs), state, weights, SAMScheme(shape.slots, shape.threshold))


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return sam_sequence(*given)


def results(function, given):
    """Features, final state, and the gradients of all arguments for random gradients of all those."""
    features, state = function(*given)
    outputs = [features, *(part for part in state if part is not None)]
    differentiable = [out for out in outputs if out.is_floating_point()]
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in differentiable]
    found = torch.autograd.grad(differentiable, given.tensors, gradients, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in given.tensors)
    return outputs + [zero if gradient is None else gradient for gradient, zero in zip(found, zeros, strict=True)]


def op_arguments(given, keep=True):
    """Those of the registered op, which takes a memory with room for every step."""
    access = with_room(SAMAccessState(*given.state[:7]), given.inputs.shape[1], given.scheme.memory_size)
    return given.inputs, given.lengths, *access, *given.state[7:], *given.weights, given.scheme.threshold, keep


def in_float32(shape, seeds=7, scale=0.3, lstm=True):
    """Per seed: floating results of the kernel, of the reference, and of the reference in float64 on the same numbers.

    Slots and steps are the same in all three.
    """
    found = []
    for seed in range(seeds):
        narrow = problem(shape, lstm, dtype=torch.float32, scale=scale, seed=seed)
        wide = narrow.map(lambda tensor: tensor.detach().double().requires_grad_())
        functions = (kernel, narrow), (sam_sequence_reference, narrow), (sam_sequence_reference, wide)
        three = [results(function, given) for function, given in functions]
        whole = [[part for part in parts if not part.is_floating_point()] for parts in three]
        assert all(a.equal(b) and a.equal(c) for a, b, c in zip(*whole, strict=True))
        found.append([[part for part in parts if part.is_floating_point()] for parts in three])
    return list(zip(*found, strict=True))
