"""An exponential moving average of the weights, for evaluation (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """average = decay · average + (1 - decay) · weights after every step; buffers are the model's own."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: list[Tensor] = list(model.parameters())
        self.names = [name for name, _ in model.named_parameters()]
        self.average = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        torch._foreach_lerp_(self.average, self.weights, 1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average in the weights' place for as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def named(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.weights, self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
