"""An NTM's cell as the arguments of the sequence op, where they can say what the cell computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from memnets.memory.access import Access, AccessState
from memnets.memory.addressing import Addressing, Gate, Key, Sharpening, Shift, Strength
from memnets.models.controller import Controller, FeedForwardController, LSTMController, LSTMControllerState
from memnets.ops.backend import KERNELS, choose, current_backend
from memnets.ops.ntm_sequence import HeadScheme, NTMSequenceState, NTMWeights, run_kernel

PARTS: tuple[type | None, ...] = (Key, Strength, Gate, Shift, Sharpening, None)


def obstacle(controller: Controller, access: Access) -> str | None:
    """Return what the sequence op can't express, None if nothing.

    The rule: it serves this project's own two controllers, its `Access`, and any ablation of its five addressing parts.
    A part replaced by another class, a subclass included, may compute something else; so may a layer that is wrapped
    or watched by hooks.
    """
    addressing = access.addressing
    if type(controller) not in (LSTMController, FeedForwardController):
        return f"it has no {type(controller).__name__}"
    if type(access) is not Access or type(addressing) is not Addressing:
        return f"it has no {type(access).__name__} with {type(addressing).__name__}"
    parts = (addressing.key, addressing.strength, addressing.gate, addressing.shift, addressing.sharpening)
    if other := [type(part).__name__ for part in parts if part is not None and type(part) not in PARTS]:
        return f"it has no {', '.join(other)}"
    layers = [access.interface, *controller.children()]
    if other := [type(layer).__name__ for layer in layers if type(layer) not in (nn.Linear, nn.LSTMCell)]:
        return f"it has no {', '.join(other)}"
    if any(module._forward_hooks or module._forward_pre_hooks for module in (controller, access, *layers)):
        return "it wouldn't call the hooks of controller and access"
    return None


def scheme_of(addressing: Addressing) -> HeadScheme:
    """Which parts of addressing there are."""
    return HeadScheme(
        similarity=addressing.key.similarity if addressing.key else None,
        strength=addressing.strength is not None,
        gate=addressing.gate is not None,
        shift_width=addressing.shift.width if addressing.shift else 0,
        sharpening=addressing.sharpening is not None,
    )


def weights_of(controller: Controller, access: Access) -> NTMWeights:
    """The cell's own parameters; an LSTM's two biases act as their sum."""
    interface = access.interface.weight, access.interface.bias
    if isinstance(controller, LSTMController):
        cell = controller.cell
        return NTMWeights(cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh, *interface)
    assert isinstance(controller, FeedForwardController)
    return NTMWeights(controller.layer.weight, None, controller.layer.bias, *interface)


def run_fused(
    controller: Controller, access: Access, inputs: Tensor, start: tuple[Any, AccessState, Tensor]
) -> tuple[Tensor, tuple[Any, AccessState, Tensor]] | None:
    """Features at every step and the state after the last, from a kernel; None if none serves.

    The state is that of the cell: its controller's, its access's and the read vectors.

    Raises:
        BackendError: the backend asked for by name can't serve.
    """
    if current_backend() == "reference":
        return None
    if reason := obstacle(controller, access):
        choose("ntm_sequence", dict.fromkeys(KERNELS, lambda: reason))
        return None
    controller_state, access_state, read_vectors = start
    state = NTMSequenceState(*access_state, read_vectors, *(controller_state or (None, None)))
    result = run_kernel(inputs, state, weights_of(controller, access), scheme_of(access.addressing))
    if result is None:
        return None
    features, (memory, read_weights, write_weights, read_vectors, hidden, cell) = result
    after = LSTMControllerState(hidden, cell) if hidden is not None and cell is not None else ()
    return features, (after, AccessState(memory, read_weights, write_weights), read_vectors)
