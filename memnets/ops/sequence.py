"""What the sequence ops share: their weights, the controller's step, the loop over time, and what C++ can't serve."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memnets.ops import backend


class SequenceWeights(NamedTuple):
    """Weights of a controller and of the interface to its memory.

    An LSTM has `recurrent` weights and 4 gates (i f g o) per hidden unit, a tanh layer neither. `input` sees the input,
    then the read vectors. `upper` holds the LSTM's further layers, each seeing the hidden vector of the layer below,
    then its own; None for one layer. The interface sees the top layer.
    """

    input: Float[Tensor, "gates seen"]
    recurrent: Float[Tensor, "gates hidden"] | None
    bias: Float[Tensor, " gates"]
    upper: Float[Tensor, "upper gates twice_hidden"] | None
    upper_bias: Float[Tensor, "upper gates"] | None
    interface: Float[Tensor, "interface hidden"]
    interface_bias: Float[Tensor, " interface"]


State = TypeVar("State", bound=tuple[Any, ...])


def controller_step(
    seen: Float[Tensor, "batch seen"],
    hidden: Float[Tensor, "batch layers hidden"] | None,
    cell: Float[Tensor, "batch layers hidden"] | None,
    weights: SequenceWeights,
) -> tuple[Float[Tensor, "batch hidden"], Tensor | None, Tensor | None]:
    """Output, and hidden and cell vectors of every layer; those are None for a tanh layer."""
    sums = F.linear(seen, weights.input, weights.bias)
    if weights.recurrent is None or hidden is None or cell is None:
        return torch.tanh(sums), None, None
    layers = [_lstm(sums + F.linear(hidden[:, 0], weights.recurrent), cell[:, 0])]
    if weights.upper is not None and weights.upper_bias is not None:
        for layer, (weight, bias) in enumerate(zip(weights.upper, weights.upper_bias, strict=True), start=1):
            both = torch.cat([layers[-1][0], hidden[:, layer]], dim=-1)
            layers.append(_lstm(F.linear(both, weight, bias), cell[:, layer]))
    hiddens, cells = zip(*layers, strict=True)
    return hiddens[-1], torch.stack(hiddens, dim=1), torch.stack(cells, dim=1)


def _lstm(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden = o tanh(cell), cell = f cell + i g."""
    insert, forget, candidate, emit = sums.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(insert) * torch.tanh(candidate)
    return torch.sigmoid(emit) * torch.tanh(cell), cell


def run_steps(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    inputs: Float[Tensor, "batch time input"],
    state: State,
    lengths: Int[Tensor, " batch"] | None,
) -> tuple[Float[Tensor, "batch time features"], State]:
    """Features of every step and the state after the last; one that has ended has features 0, its state stays.

    Raises:
        ValueError: inputs without steps.
    """
    check_steps(inputs)
    features = []
    for index, step_inputs in enumerate(without_padding(inputs, lengths).unbind(dim=1)):
        step_features, after = step(step_inputs, state)
        if lengths is not None:
            runs_on = index < lengths
            step_features = _where(runs_on, step_features, torch.zeros_like(step_features))
            after = type(state)(*(_where(runs_on, *pair) for pair in zip(after, state, strict=True)))
        features.append(step_features)
        state = after
    return torch.stack(features, dim=1), state


def _where(runs_on: Tensor, new: Any, old: Any) -> Any:
    return None if new is None else torch.where(runs_on.view(-1, *[1] * (new.ndim - 1)), new, old)


def check_steps(inputs: Float[Tensor, "batch time input"]) -> None:
    """Refuse sequences of nothing.

    Raises:
        ValueError: inputs without steps.
    """
    if not inputs.shape[1]:
        raise ValueError(f"a sequence needs at least one step, but inputs {list(inputs.shape)} have none")


def check_lengths(lengths: Int[Tensor, " batch"] | None, steps: int) -> None:
    """Refuse lengths that can't be. Those on a GPU are not looked at, as that would have to be waited for.

    Raises:
        ValueError: a length below 0 or beyond `steps`.
    """
    if lengths is None or not lengths.is_cpu or not lengths.numel() or torch.compiler.is_compiling():
        return
    if lengths.min() < 0 or lengths.max() > steps:
        raise ValueError(f"lengths must be between 0 and the {steps} steps there are, not {lengths.tolist()}")


def without_padding(inputs: Tensor, lengths: Int[Tensor, " batch"] | None) -> Tensor:
    """Zeros where a sequence has ended: what padding holds, NaN too, must not reach a gradient."""
    if lengths is None:
        return inputs
    beyond = torch.arange(inputs.shape[1], device=inputs.device) >= lengths[:, None]
    return inputs.masked_fill(beyond[..., None], 0)


def in_one_precision(run: Callable[..., tuple[Any, ...]], given: tuple[Any, ...], *options: Any) -> tuple[Any, ...]:
    """Run in float32 at least and in one precision; the results have the widest of the arguments'."""
    dtypes = {tensor.dtype for tensor in given if tensor is not None and tensor.is_floating_point()}
    if not dtypes - {torch.float32} or not dtypes - {torch.float64}:
        return run(given, *options)
    dtype = reduce(torch.promote_types, dtypes)

    def cast(tensors: tuple[Any, ...], to: torch.dtype) -> tuple[Any, ...]:
        return tuple(t if t is None or not t.is_floating_point() else t.to(to) for t in tensors)

    return cast(run(cast(given, torch.promote_types(dtype, torch.float32)), *options), dtype)


def cpu_obstacle(op: str, register: Callable[[], None], given: tuple[Tensor | None, ...]) -> str | None:
    """Return why the C++ kernel of `op` can't serve these tensors (inputs first), None if it can.

    It serves plain tensors of real floating dtype on a CPU, with at least one sequence and one step, outside the
    transforms of torch.func. It has first derivatives only, backward.
    """
    if reason := place_obstacle(given):
        return reason
    if given[0] is None or 0 in given[0].shape[:2]:
        return "there is nothing to run: no sequence or no step"
    return backend.transform_obstacle() or backend.build_obstacle(op, register)


def place_obstacle(given: tuple[Tensor | None, ...]) -> str | None:
    """Return why no C++ kernel can serve these tensors: other than plain ones, or elsewhere than on a CPU."""
    for tensor in given:
        if tensor is not None and not tensor.is_cpu:
            return f"tensors are on {tensor.device.type}, it runs on the CPU"
        if tensor is not None and type(tensor) not in PLAIN:
            return f"it takes plain tensors, not {type(tensor).__name__}"
    return None


PLAIN: tuple[type, ...] = (Tensor, torch.nn.Parameter)
