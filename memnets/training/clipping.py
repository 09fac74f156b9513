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
    if settings.clip_spectral_each is not None:
        for weight in weights:
            clip_spectral_norm(weight, settings.clip_spectral_each)
    if settings.clip_norm is None:
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    else:
        norm = nn.utils.clip_grad_norm_(weights, settings.clip_norm)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def clip_spectral_norm(weight: nn.Parameter, limit: float) -> None:
    """Scale a gradient in place so that its spectral norm is `limit` at most.

    One that is not finite stays as it is: the step's norm will tell.
    """
    assert weight.grad is not None
    gradient = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
    bound = float(torch.linalg.vector_norm(gradient))  # no less than the spectral norm, and far cheaper
    if limit < bound < float("inf"):
        norm = float(torch.linalg.matrix_norm(gradient.float().flatten(1), 2)) if gradient.dim() > 1 else bound
        weight.grad.mul_(min(1.0, limit / norm))
