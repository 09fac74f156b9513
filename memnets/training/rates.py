"""Learning rates that differ between the parts of a model: a pretrained part learns slower than a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memnets.training.distributed import plain


def optimizer_of(
    model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]
) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return the optimizer of what a model trains, and each of its groups' learning rate before any schedule.

    Parts that `SequenceModel.rate_factors` names come in groups of their own, after the rest; frozen weights in none.
    """
    factors = plain(model).rate_factors
    weights = {name: weight for name, weight in plain(model).named_parameters() if weight.requires_grad}
    if not factors:
        optimizer = make_optimizer(list(weights.values()))
        return optimizer, [group["lr"] for group in optimizer.param_groups]
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in ("", *factors)}
    for name, weight in weights.items():
        groups[_part(name, factors)].append(weight)
    kept = [(factors.get(part, 1.0), own) for part, own in groups.items() if own]
    optimizer = make_optimizer([{"params": own} for _, own in kept])
    return optimizer, [group["lr"] * factor for group, (factor, _) in zip(optimizer.param_groups, kept, strict=True)]


def _part(name: str, factors: dict[str, float]) -> str:
    """Return which of the named parts a parameter belongs to; '' of none."""
    return next((part for part in factors if name.startswith(f"{part}.")), "")
