"""All tensors of a training state, gathered for a checkpoint and put back: the same whether sharded or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from memnets.training.checkpoint import Checkpoint, CheckpointError
from memnets.training.ema import MovingAverage

SEPARATOR = "|"
"""Between a parameter's name and the optimizer's name for a tensor of its state; no parameter name holds it."""


def gather(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return tensors by group and name, and what of the optimizer is no tensor. Every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    optimizer_state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    per_parameter: dict[str, Any] = {
        f"{name}{SEPARATOR}{key}": value
        for name, values in optimizer_state.get("state", {}).items()
        for key, value in values.items()
    }
    tensors: dict[str, Any] = {
        "model": get_model_state_dict(model, options=options),
        "optimizer": {key: value for key, value in per_parameter.items() if isinstance(value, Tensor)},
    }
    if average is not None:
        tensors["average"] = {name: _full(tensor) for name, tensor in average.named().items()}
    return tensors, {key: value for key, value in per_parameter.items() if not isinstance(value, Tensor)}


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> None:
    """Put a checkpoint's tensors back.

    Raises:
        CheckpointError: it belongs to another model or optimizer, or lacks the moving average asked for.
    """
    restore_model(checkpoint, model)
    state: dict[str, dict[str, Any]] = {}
    for key, value in {**checkpoint.tensors.get("optimizer", {}), **checkpoint.state["optimizer"]}.items():
        name, _, field = key.rpartition(SEPARATOR)
        state.setdefault(name, {})[field] = value
    now: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    if _fields(now.get("state", {})) != _fields(state):
        raise CheckpointError(f"{checkpoint.path} holds another optimizer's state: set optim as it was there")
    if state:  # plain SGD has none, which the setter can't handle; rates and the like stay as configured
        full_state: Any = {"state": state, "param_groups": now["param_groups"]}
        set_optimizer_state_dict(model, optimizer, full_state, options=StateDictOptions(full_state_dict=True))
    if average is not None:
        if "average" not in checkpoint.tensors:
            raise CheckpointError(f"{checkpoint.path} holds no moving average: it was trained with ema_decay=null")
        for name, tensor in average.named().items():
            _put(tensor, checkpoint.tensors["average"][name])


def restore_model(checkpoint: Checkpoint, model: nn.Module, averaged: bool = False) -> None:
    """Put a checkpoint's weights back; `averaged` takes their moving average where there is one.

    Raises:
        CheckpointError: it belongs to a model of other names or shapes.
    """
    weights: dict[str, Any] = dict(checkpoint.tensors["model"])
    if averaged:
        weights |= checkpoint.tensors.get("average", {})
    try:
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this model: {error}") from error


def _fields(state: dict[str, dict[str, Any]]) -> set[str]:
    return {field for values in state.values() for field in values}


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _put(tensor: Tensor, value: Tensor) -> None:
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
    tensor.copy_(value)
