"""What torch is told about any sequence kernel in C++: shapes of its results, its gradient, precisions.

Every such op has the same signature around its memory's state and its options, see `CPUSequence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor | None, ...]
Shapes = list[tuple[int, ...]]


class Integers(tuple[int, ...]):
    """Shape of a tensor of whole numbers."""


class Steps(tuple[int, ...]):
    """Shape `[batch steps ...]` of a trace whose steps lie one after the other."""


NUM_WEIGHTS = 7
"""Input, recurrent and bias, upper and its bias, interface and its bias."""


class SequenceSizes(NamedTuple):
    """Of a call: how many steps and states are kept, all or, without a backward pass, one and two."""

    batch: int
    interface: int
    steps: int
    states: int
    keep: bool


@dataclass(frozen=True)
class CPUSequence:
    """A C++ sequence kernel as a function of tensors, with its gradient.

    `<name>_forward` takes inputs, lengths, the memory's state, read vectors, hidden, cell, the controller's weights,
    options, keep; it gives features, the state likewise, gates, cells, hiddens and the memory's traces.
    `<name>_backward` takes the gradients of features and state, then inputs, lengths, read vectors, hidden, weights,
    features, gates, cells, hiddens, traces, options, and whether inputs and memory, the state's first, need a gradient;
    it gives the gradients of inputs, state and weights.

    Attributes:
        name: of the op.
        num_state: how many tensors the memory's state has.
        trace_shapes: shapes of the traces its memory leaves behind, from sizes, state and options.
        state_shapes: those of the state, from read vectors and the traces, which options follow.
        num_integers: how many tensors at the state's end are whole numbers. They have no gradients: the op of the
            gradient neither takes nor gives any for them, and `state_shapes` has none.
    """

    name: str
    num_state: int
    trace_shapes: Callable[[SequenceSizes, tuple[Tensor, ...], tuple[Any, ...]], Shapes]
    state_shapes: Callable[[Tensor, tuple[Any, ...]], Shapes]
    num_integers: int = 0

    @property
    def num_tensors(self) -> int:
        """Arguments of the forward op before its options."""
        return 2 + self.num_state + 3 + NUM_WEIGHTS

    @property
    def num_results(self) -> int:
        """Features, then the state; the others are kept for the backward pass."""
        return 1 + self.num_state + 3

    @property
    def num_gradients(self) -> int:
        """Results that have gradients."""
        return self.num_results - self.num_integers

    @property
    def forward(self) -> Any:
        """The op."""
        return getattr(torch.ops.memnets, f"{self.name}_forward")

    @property
    def backward(self) -> Any:
        """The op of its gradient."""
        return getattr(torch.ops.memnets, f"{self.name}_backward")

    def run(self, given: tuple[Any, ...], options: tuple[Any, ...]) -> Tensors:
        """Features at every step and the state after the last.

        Args:
            given: inputs, lengths, the state's tensors and the weights': those there are in float32, or all in float64.
            options: what else the op takes, all but keep.
        """
        keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
        if keep and not torch.compiler.is_compiling():
            found = _Sequence.apply(self, options, *given)
        else:
            found = self.forward(*given, *options, keep)[: self.num_results]
        *others, _hidden, _cell = found
        return found if given[4 + self.num_state] is not None else (*others, None, None)

    def register(self) -> None:
        """Tell torch, once the kernel is loaded, what its results look like and what its gradient is."""
        forward, backward = f"memnets::{self.name}_forward", f"memnets::{self.name}_backward"
        torch.library.register_fake(forward, self._fake_forward)
        torch.library.register_fake(backward, self._fake_backward)
        torch.library.register_autograd(forward, self.gradient, setup_context=self.save)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        given, lengths, *rest = inputs[: self.num_tensors]
        memory, read_vectors, hidden, _cell, *weights = rest[0], *rest[self.num_state :]
        features, traces = output[0], output[self.num_results :]
        ctx.save_for_backward(given, lengths, read_vectors, hidden, *weights, features, *traces)
        ctx.options = (*inputs[self.num_tensors : -1], given.requires_grad, memory.requires_grad)
        ctx.set_materialize_grads(False)

    def gradient(self, ctx: Any, *gradients: Tensor | None) -> Tensors:
        """Gradients of the forward op's arguments."""
        saved = ctx.saved_tensors  # once: under activation checkpointing, that computes them again
        integers_at = 1 + self.num_state - self.num_integers
        given = *gradients[:integers_at], *gradients[1 + self.num_state : self.num_results]
        found = self.backward(*given, *saved, *ctx.options)
        recurrent, upper = saved[5], saved[7]
        hidden_at = 1 + integers_at
        absent = set() if recurrent is not None else {hidden_at, hidden_at + 1, hidden_at + 3}
        absent |= set() if upper is not None else {hidden_at + 5, hidden_at + 6}
        absent |= {place for place, wanted in enumerate(ctx.options[-2:]) if not wanted}
        first, *others = (None if i in absent else gradient for i, gradient in enumerate(found))
        state = *others[: integers_at - 1], *[None] * self.num_integers
        return first, None, *state, *others[integers_at - 1 :], *[None] * (len(ctx.options) - 1)

    def _fake_forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        inputs, _lengths, *rest = arguments[: self.num_tensors]
        *options, keep = arguments[self.num_tensors :]
        state, read_vectors = tuple(rest[: self.num_state]), rest[self.num_state]
        weights = rest[self.num_state + 3 :]
        (batch, time, _), (interface, hidden) = inputs.shape, weights[5].shape
        steps, states = (time, time + 1) if keep else (1, 2)
        layers, lower = _layers(weights)
        shapes = [
            (batch, time, hidden + read_vectors[0].numel()),
            *(part.shape for part in state[: self.num_state - self.num_integers]),
            *(Integers(part.shape) for part in state[self.num_state - self.num_integers :]),
            read_vectors.shape,
            (batch, layers, hidden),
            (batch, layers, hidden),
            Steps((batch, steps, layers, weights[0].shape[0])),
            Steps((batch, states, layers, hidden)),
            Steps((batch, states, lower, hidden)),
            *self.trace_shapes(SequenceSizes(batch, interface, steps, states, keep), state, tuple(options)),
        ]
        return tuple(_empty(inputs, shape) for shape in shapes)

    def _fake_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        inputs, _lengths, read_vectors, _hidden, *rest = arguments[self.num_gradients :]
        weights, traces = rest[:NUM_WEIGHTS], tuple(rest[NUM_WEIGHTS + 4 :])
        interface, (layers, lower) = weights[5], _layers(weights)
        (gates, _), hidden, batch = weights[0].shape, interface.shape[1], len(inputs)
        wants_inputs, wants_memory = arguments[-2:]
        memory, *others = self.state_shapes(read_vectors, traces)
        shapes = [
            inputs.shape if wants_inputs else (0, *inputs.shape[1:]),
            memory if wants_memory else (0, *memory[1:]),
            *others,
            read_vectors.shape,
            (batch, layers, hidden),
            (batch, layers, hidden),
            weights[0].shape,
            (gates, hidden if layers else 0),
            (gates,),
            (lower, gates, 2 * hidden),
            (lower, gates),
            interface.shape,
            interface[:, 0].shape,
        ]
        return tuple(inputs.new_empty(shape) for shape in shapes)


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    if isinstance(shape, Steps):
        batch, steps, *others = shape
        return like.new_empty((steps, batch, *others)).transpose(0, 1)
    return like.new_empty(shape, dtype=torch.int64 if isinstance(shape, Integers) else None)


def _layers(weights: list[Tensor | None]) -> tuple[int, int]:
    """Layers that have a state, and those of them below the top."""
    lower = 0 if weights[3] is None else weights[3].shape[0]
    return (0 if weights[1] is None else 1 + lower), lower


class _Sequence(torch.autograd.Function):
    """The op's gradient in eager mode: what `register_autograd` does, with fewer calls of Python."""

    @staticmethod
    def forward(ctx: Any, kernel: CPUSequence, options: tuple[Any, ...], *given: Tensor | None) -> tuple[Tensor, ...]:
        arguments = (*given, *options, True)
        # As torch/_library/autograd.py does it: past the dispatch that would look for the op's gradient again.
        with torch._C._AutoDispatchBelowAutograd():
            output: tuple[Tensor, ...] = kernel.forward(*arguments)
        kernel.save(ctx, arguments, output)
        ctx.kernel = kernel
        return output[: kernel.num_results]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensors:
        kernel: CPUSequence = ctx.kernel
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(f"{kernel.name}'s C++ kernel has no second derivatives: use_backend('reference') has")
        return None, None, *kernel.gradient(ctx, *gradients)[: kernel.num_tensors]
