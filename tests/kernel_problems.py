"""Problems for the sequence kernel: random arguments at sizes where mistakes show, and how results are compared."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from memnets.ops.backend import use_backend
from memnets.ops.ntm_sequence import HeadScheme, NTMSequenceState, ntm_sequence
from memnets.ops.sequence import SequenceWeights

MULTIPLE = 4
"""A kernel's error may be this many times the reference's own, which counts as one rounding at least."""


class Shape(NamedTuple):
    """Sizes of a problem; `strided` makes every tensor a view whose last axis isn't contiguous."""

    batch: int = 3
    time: int = 5
    inputs: int = 3
    hidden: int = 5
    slots: int = 7
    word: int = 6
    read_heads: int = 2
    write_heads: int = 2
    strided: bool = False
    layers: int = 1


SHAPES = {
    "odd": Shape(),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1, 1),
    "one_slot": Shape(slots=1),
    "one_word": Shape(word=1),
    "one_step": Shape(time=1),
    "one_row": Shape(batch=1, slots=13),
    "no_inputs": Shape(inputs=0),
    "one_write_head": Shape(read_heads=3, write_heads=1),
    "three_write_heads": Shape(read_heads=1, write_heads=3),
    "whole_vectors": Shape(batch=2, hidden=32, slots=64, word=16, read_heads=1, write_heads=1),
    "beyond_vectors": Shape(batch=27, time=3, inputs=2, hidden=33, slots=70, word=17, read_heads=1, write_heads=1),
    "strided": Shape(strided=True),
}

SCHEMES = [
    HeadScheme(similarity, strength, gate, shift_width, sharpening)
    for similarity, strength, gate, shift_width, sharpening in product(
        ["cosine", "dot", None], [True, False], [True, False], [0, 1, 3, 9], [True, False]
    )
    if similarity or not (strength or gate)
]


class Problem(NamedTuple):
    """Arguments of `ntm_sequence`."""

    inputs: torch.Tensor
    state: NTMSequenceState
    weights: SequenceWeights
    scheme: HeadScheme
    lengths: torch.Tensor | None = None

    @property
    def tensors(self):
        return [tensor for tensor in (self.inputs, *self.state, *self.weights) if tensor is not None]

    def with_tensors(self, tensors):
        """The same problem with others in the place of `tensors`."""
        rest = iter(tensors)
        inputs = next(rest)
        state, weights = (
            type(part)(*(None if old is None else next(rest) for old in part)) for part in (self.state, self.weights)
        )
        return Problem(inputs, state, weights, self.scheme, self.lengths)


def problem(shape=None, lstm=True, scheme=None, dtype=torch.float64, seed=0, scale=1.0, device="cpu"):
    """Random arguments: the same values, bar rounding, for the same seed at any precision."""
    shape, scheme = shape or Shape(), scheme or HeadScheme()
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return place(scale * torch.randn(sizes, generator=generator, dtype=torch.float64))

    def weights(*sizes):
        return place(torch.randn(sizes, generator=generator, dtype=torch.float64).softmax(-1))

    def place(tensor):
        tensor = tensor.to(device, dtype)
        if shape.strided:  # the gaps hold what must not be read
            tensor = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        return tensor.requires_grad_()

    batch, heads = shape.batch, shape.read_heads + shape.write_heads
    gates = 4 * shape.hidden if lstm else shape.hidden
    interface = heads * sum(scheme.sizes(shape.word)) + 2 * shape.write_heads * shape.word
    state = NTMSequenceState(
        normal(batch, shape.slots, shape.word),
        weights(batch, shape.read_heads, shape.slots),
        weights(batch, shape.write_heads, shape.slots),
        normal(batch, shape.read_heads, shape.word),
        normal(batch, shape.layers, shape.hidden) if lstm else None,
        normal(batch, shape.layers, shape.hidden) if lstm else None,
    )
    parameters = SequenceWeights(
        normal(gates, shape.inputs + shape.read_heads * shape.word),
        normal(gates, shape.hidden) if lstm else None,
        normal(gates),
        normal(shape.layers - 1, gates, 2 * shape.hidden) if shape.layers > 1 else None,
        normal(shape.layers - 1, gates) if shape.layers > 1 else None,
        normal(interface, shape.hidden),
        normal(interface),
    )
    return Problem(normal(batch, shape.time, shape.inputs), state, parameters, scheme)


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return ntm_sequence(*given)


def results(function, given):
    """Features, final state, and the gradients of all arguments for random gradients of all those."""
    features, state = function(*given)
    outputs = [features, *(part for part in state if part is not None)]
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in outputs]
    found = torch.autograd.grad(outputs, given.tensors, gradients, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in given.tensors)
    return outputs + [zero if gradient is None else gradient for gradient, zero in zip(found, zeros, strict=True)]


def errors(actual, exact):
    """Distance of each result from the exact one, relative to that: the median over seeds, as a few are chaotic."""
    per_seed = [
        [((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item() for got, want in zip(*pair, strict=True)]
        for pair in zip(actual, exact, strict=True)
    ]
    return torch.tensor(per_seed).nan_to_num(torch.inf).median(dim=0).values


def wrong(actual, reference, exact, dtype=torch.float32):
    """Which results (a list of results per seed) err more than the reference allows, and by how much."""
    rounding = torch.finfo(dtype).eps / 2
    found, allowed = errors(actual, exact), MULTIPLE * errors(reference, exact).clamp_min(rounding)
    return {i: f"error {found[i]:.1e}, bound {allowed[i]:.1e}" for i in (found > allowed).nonzero().flatten().tolist()}
