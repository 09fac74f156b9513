"""Problems for the sequence kernels: random arguments at sizes where mistakes show, and how results are compared."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from memnets.ops.backend import use_backend
from memnets.ops.dnc_sequence import DNCScheme, DNCSequenceState
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
    "two_that_only_write": Shape(read_heads=0, write_heads=2),
    "more_heads_than_lanes": Shape(batch=1, time=2, read_heads=11, write_heads=8),
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


DNC_SHAPES = {
    "odd": Shape(write_heads=1),
    "one_of_all": Shape(1, 1, 1, 1, 1, 1, 1, 1),
    "one_slot": Shape(slots=1, write_heads=1),
    "one_word": Shape(word=1, write_heads=1),
    "one_step": Shape(time=1, write_heads=1),
    "one_row": Shape(batch=1, slots=13, write_heads=1),
    "no_inputs": Shape(inputs=0, write_heads=1),
    "seven_read_heads": Shape(batch=2, slots=18, read_heads=7, write_heads=1),
    "layers": Shape(write_heads=1, layers=3),
    "whole_vectors": Shape(batch=2, hidden=32, slots=32, word=16, read_heads=1, write_heads=1),
    "beyond_vectors": Shape(batch=27, time=3, inputs=2, hidden=33, slots=37, word=17, read_heads=1, write_heads=1),
    "strided": Shape(write_heads=1, strided=True),
}

DNC_SCHEMES = [
    DNCScheme(mask, deallocation, link, link_sharpening)
    for mask, deallocation, link, link_sharpening in product([False, True], repeat=4)
    if link or not link_sharpening
]


class Problem(NamedTuple):
    """Arguments of a sequence op."""

    inputs: torch.Tensor
    state: NTMSequenceState | DNCSequenceState
    weights: SequenceWeights
    scheme: HeadScheme | DNCScheme
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


class Draw:
    """Random tensors: the same values, bar rounding, for the same seed at any precision."""

    def __init__(self, shape, dtype=torch.float64, seed=0, scale=1.0, device="cpu"):
        self.shape, self.dtype, self.scale, self.device = shape, dtype, scale, device
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *sizes):
        return self._place(self.scale * torch.randn(sizes, generator=self.generator, dtype=torch.float64))

    def weights(self, *sizes):
        return self._place(torch.randn(sizes, generator=self.generator, dtype=torch.float64).softmax(-1))

    def unit(self, *sizes):
        return self._place(torch.rand(sizes, generator=self.generator, dtype=torch.float64))

    def _place(self, tensor):
        tensor = tensor.to(self.device, self.dtype)
        if self.shape.strided:  # the gaps hold what must not be read
            tensor = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]
        return tensor.requires_grad_()

    def controller_state(self, lstm):
        """Read vectors, hidden, cell."""
        batch, layers, hidden = self.shape.batch, self.shape.layers, self.shape.hidden
        read_vectors = self.normal(batch, self.shape.read_heads, self.shape.word)
        return read_vectors, *((self.normal(batch, layers, hidden) if lstm else None) for _ in range(2))

    def sequence_weights(self, lstm, interface):
        shape = self.shape
        gates, upper = 4 * shape.hidden if lstm else shape.hidden, shape.layers - 1
        return SequenceWeights(
            self.normal(gates, shape.inputs + shape.read_heads * shape.word),
            self.normal(gates, shape.hidden) if lstm else None,
            self.normal(gates),
            self.normal(upper, gates, 2 * shape.hidden) if upper else None,
            self.normal(upper, gates) if upper else None,
            self.normal(interface, shape.hidden),
            self.normal(interface),
        )


def problem(shape=None, lstm=True, scheme=None, dtype=torch.float64, seed=0, scale=1.0, device="cpu"):
    """Random arguments of `ntm_sequence`."""
    shape, scheme = shape or Shape(), scheme or HeadScheme()
    draw = Draw(shape, dtype, seed, scale, device)
    batch, heads = shape.batch, shape.read_heads + shape.write_heads
    interface = heads * sum(scheme.sizes(shape.word)) + 2 * shape.write_heads * shape.word
    state = NTMSequenceState(
        draw.normal(batch, shape.slots, shape.word),
        draw.weights(batch, shape.read_heads, shape.slots),
        draw.weights(batch, shape.write_heads, shape.slots),
        *draw.controller_state(lstm),
    )
    parameters = draw.sequence_weights(lstm, interface)
    return Problem(draw.normal(batch, shape.time, shape.inputs), state, parameters, scheme)


def dnc_problem(shape=None, lstm=True, scheme=None, dtype=torch.float64, seed=0, scale=1.0):
    """Random arguments of `dnc_sequence`; the links' diagonal isn't 0, as if it had to be ignored."""
    shape, scheme = shape or DNC_SHAPES["odd"], scheme or DNCScheme(True, True, True, True)
    draw, batch, slots = Draw(shape, dtype, seed, scale), shape.batch, shape.slots
    lstm = lstm or shape.layers > 1
    state = DNCSequenceState(
        draw.normal(batch, slots, shape.word),
        draw.unit(batch, slots),
        draw.weights(batch, slots) if scheme.link else None,
        draw.weights(batch, slots, slots) if scheme.link else None,
        draw.weights(batch, shape.read_heads, slots),
        draw.weights(batch, 1, slots),
        *draw.controller_state(lstm),
    )
    parameters = draw.sequence_weights(lstm, sum(scheme.sizes(shape.word, shape.read_heads).values()))
    return Problem(draw.normal(batch, shape.time, shape.inputs), state, parameters, scheme)


def widened(given):
    """The same numbers in float64."""
    return given.with_tensors([tensor.double() for tensor in given.tensors])


def alone(given, i):
    """Sequence `i` as a problem of its own, cut to its length."""
    steps = given.inputs.shape[1] if given.lengths is None else given.lengths[i]
    state = (None if part is None else part[i : i + 1] for part in given.state)
    return Problem(given.inputs[i : i + 1, :steps], type(given.state)(*state), *given[2:4])


def kernel(*given):
    """The op, refusing to fall back."""
    with use_backend("cpu"):
        return ntm_sequence(*given)


def results(function, given):
    """Features, final state, and the gradients of all arguments that want one for random gradients of all those."""
    features, state = function(*given)
    outputs = [features, *(part for part in state if part is not None)]
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out) for out in outputs]
    wanted = [tensor for tensor in given.tensors if tensor.requires_grad]
    found = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True)
    zeros = (torch.zeros_like(tensor) for tensor in wanted)
    return outputs + [zero if gradient is None else gradient for gradient, zero in zip(found, zeros, strict=True)]


def in_narrow(function, reference, make, seeds=5):
    """Per seed: results of a function, of its reference, and of the reference in float64 on the same arguments."""
    found = []
    for seed in range(seeds):
        narrow = make(seed)
        functions = (function, narrow), (reference, narrow), (reference, widened(narrow))
        found.append([results(called, given) for called, given in functions])
    return list(zip(*found, strict=True))


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
