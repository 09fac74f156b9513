"""A machine's cell as the arguments of a sequence op, where one can say what the cell computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.memory.access import Access
from memnets.models.controller import Controller, FeedForwardController, LSTMController, LSTMControllerState
from memnets.ops.backend import KERNELS, choose, current_backend
from memnets.ops.sequence import SequenceWeights


class FusedSequence(NamedTuple):
    """What a model says of its sequence op.

    Attributes:
        op: its name.
        obstacle: what of an access the op can't express, None if nothing.
        state: the op's state: the fields of the access's state, then read vectors, hidden and cell vectors.
        run: features and state after the last step from inputs, state, weights and access; None if no kernel serves.
    """

    op: str
    obstacle: Callable[[Access], str | None]
    state: Callable[..., Any]
    run: Callable[[Tensor, Any, SequenceWeights, Any], tuple[Tensor, Any] | None]


def run_fused(
    fused: FusedSequence, controller: Controller, access: Access, inputs: Tensor, start: tuple[Any, Any, Tensor]
) -> tuple[Tensor, tuple[Any, Any, Tensor]] | None:
    """Features at every step and the state after the last, from a kernel; None if none serves.

    The state is that of the cell: its controller's, its access's and the read vectors.

    Raises:
        BackendError: the backend asked for by name can't serve.
    """
    if current_backend() == "reference":
        return None
    if reason := _controller_obstacle(controller, access) or fused.obstacle(access):
        choose(fused.op, dict.fromkeys(KERNELS, lambda: reason))
        return None
    controller_state, access_state, read_vectors = start
    state = fused.state(*access_state, read_vectors, *(controller_state or (None, None)))
    found = fused.run(inputs, state, _weights(controller, access), access)
    if found is None:
        return None
    features, (*accessed, read_vectors, hidden, cell) = found
    controller_after = () if hidden is None else LSTMControllerState(hidden, cell)
    return features, (controller_after, type(access_state)(*accessed), read_vectors)


def _controller_obstacle(controller: Controller, access: Access) -> str | None:
    """Return what of controller and interface no sequence op can express, None if nothing.

    The rule: they serve this project's LSTM and feed-forward controllers. A subclass may compute something else; so may
    a layer that is wrapped or watched by hooks.
    """
    if type(controller) not in (LSTMController, FeedForwardController):
        return f"it has no {type(controller).__name__}"
    cells = controller.cells if isinstance(controller, LSTMController) else controller.children()
    layers = [access.interface, *cells]
    if other := [type(layer).__name__ for layer in layers if type(layer) not in (nn.Linear, nn.LSTMCell)]:
        return f"it has no {', '.join(other)}"
    if any(module._forward_hooks or module._forward_pre_hooks for module in (controller, access, *layers)):
        return "it wouldn't call the hooks of controller and access"
    return None


def _weights(controller: Controller, access: Access) -> SequenceWeights:
    """The cell's own parameters; an LSTM's two biases act as their sum."""
    interface = access.interface.weight, access.interface.bias
    if isinstance(controller, FeedForwardController):
        return SequenceWeights(controller.layer.weight, None, controller.layer.bias, None, None, *interface)
    assert isinstance(controller, LSTMController)
    first, *upper = controller.cells
    lower = first.weight_ih, first.weight_hh, first.bias_ih + first.bias_hh
    if not upper:
        return SequenceWeights(*lower, None, None, *interface)
    weights = torch.stack([torch.cat([layer.weight_ih, layer.weight_hh], dim=1) for layer in upper])
    return SequenceWeights(*lower, weights, torch.stack([layer.bias_ih + layer.bias_hh for layer in upper]), *interface)
