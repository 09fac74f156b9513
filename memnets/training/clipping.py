"""Bounds on a step's gradient: of each number, of each parameter, of all together, in this order."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from memnets.training.settings import TrainerSettings


def clip_gradients(parameters: Iterable[nn.Parameter], settings: TrainerSettings) -> float:
    """Clip gradients in place as `settings` say; return their Euclidean norm before `clip_norm` acts."""
    weights = [weight for weight in parameters if weight.grad is not None]
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(weights, settings.clip_value)
    if settings.clip_norm_each is not None:
        for weight in weights:
            nn.utils.clip_grad_norm_([weight], settings.clip_norm_each)
    limit = float("inf") if settings.clip_norm is None else settings.clip_norm
    norm: torch.Tensor = nn.utils.clip_grad_norm_(weights, limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
