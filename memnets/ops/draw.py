"""Random inputs of ops, at sizes where mistakes show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Length of every axis an op may have; `strided` makes inputs views whose last axis is not contiguous."""

    batch: int = 2
    heads: int = 3
    slots: int = 7
    word: int = 5
    time: int = 3
    width: int = 3
    k: int = 2
    strided: bool = False


SIZES = {
    "odd": Sizes(),
    "one_of_all": Sizes(batch=1, heads=1, slots=1, word=1, time=1, width=1, k=1),
    "one_slot": Sizes(slots=1, k=1),
    "one_word": Sizes(word=1),
    "one_row": Sizes(batch=1, slots=13, word=3),
    "wide_shift": Sizes(slots=3, width=5),
    "strided": Sizes(strided=True),
}


@dataclass(frozen=True)
class Draw:
    """Random inputs of given sizes: the same values at any precision and place for the same generator seed."""

    sizes: Sizes
    generator: torch.Generator
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def normal(self, *axes: str | int) -> Tensor:
        """Normally distributed numbers along the named axes, or axes of the given length."""
        return self._place(self._normal(axes))

    def unit(self, *axes: str | int) -> Tensor:
        """Numbers between 0 and 1."""
        return self._place(self._normal(axes).sigmoid())

    def positive(self, *axes: str, above: float = 0.0) -> Tensor:
        """Numbers greater than `above`."""
        return self._place(above + self._normal(axes).exp())

    def negative(self, *axes: str | int) -> Tensor:
        """Numbers less than 0."""
        return self._place(-self._normal(axes).exp())

    def weights(self, *axes: str | int) -> Tensor:
        """Distributions along the last axis."""
        return self._place(self._normal(axes).softmax(-1))

    def mask(self, *axes: str | int, share: float = 0.6) -> Tensor:
        """True with probability `share`."""
        return self._place(torch.rand(self._shape(axes), generator=self.generator) < share)

    def slots(self, *axes: str | int) -> Tensor:
        """Indices of slots."""
        return self.below(self.sizes.slots, *axes)

    def below(self, size: int, *axes: str | int) -> Tensor:
        """Indices of `size` things."""
        return self._place(torch.randint(size, self._shape(axes), generator=self.generator))

    def stamps(self, *axes: str, empty: bool = True) -> Tensor:
        """Whole numbers below `slots`, with -1 among them if some are `empty`."""
        return self._place(torch.randint(-empty, self.sizes.slots, self._shape(axes), generator=self.generator))

    def _shape(self, axes: tuple[str | int, ...]) -> list[int]:
        return [axis if isinstance(axis, int) else getattr(self.sizes, axis) for axis in axes]

    def _normal(self, axes: tuple[str | int, ...]) -> Tensor:
        return torch.randn(self._shape(axes), generator=self.generator, dtype=torch.float64)

    def _place(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
        if not self.sizes.strided:
            return tensor
        # Every other element of a tensor twice as wide: the gaps hold what must not be read.
        gaps = torch.full_like(tensor, math.nan) if tensor.is_floating_point() else ~tensor
        return torch.stack([tensor, gaps], dim=-1)[..., 0]
