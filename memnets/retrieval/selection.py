"""Which of the scored rows are read: the best, those above a threshold, or all."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad


class Selected(NamedTuple):
    """Rows of a memory that each query reads.

    Attributes:
        rows: the memory's rows, best first (`All`: in their order); 0 where there is none.
        scores: how relevant they are; 0 where there is none.
        mask: where there is one.
    """

    rows: Int[Tensor, "queries k"]
    scores: Float[Tensor, "queries k"]
    mask: Bool[Tensor, "queries k"]


@runtime_checkable
class Selection(Protocol):
    """A rule by which queries choose rows. A row that scores -inf is never chosen."""

    def select(self, scores: Float[Tensor, "queries rows"]) -> Selected:
        """Choose for each query by its own scores alone."""
        ...


class TopK:
    """The `k` best. What a memory has too few for is padding.

    Raises:
        ValueError: k is not positive.
    """

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"TopK.k must be positive, not {k}")
        self.k = k

    def select(self, scores: Float[Tensor, "queries rows"]) -> Selected:
        """Choose the `k` best of each query."""
        best, rows = scores.topk(min(self.k, scores.shape[1]), dim=1)
        return _padded(rows, best, best > -math.inf, self.k)


class Threshold:
    """All that score `least` or more, but never fewer than the `minimum` best nor more than the `maximum` best.

    A memory may have fewer than `minimum` rows to read; with `minimum` 0 a query may find nothing.

    Raises:
        ValueError: minimum is negative or beyond maximum, or maximum is not positive.
    """

    def __init__(self, least: float, minimum: int = 1, maximum: int = 10) -> None:
        if not 0 <= minimum <= maximum or maximum < 1:
            raise ValueError(f"Threshold needs 0 <= minimum <= maximum and maximum >= 1, not {minimum} and {maximum}")
        self.least, self.minimum, self.maximum = least, minimum, maximum

    def select(self, scores: Float[Tensor, "queries rows"]) -> Selected:
        """Choose between `minimum` and `maximum` rows of each query."""
        best, rows = scores.topk(min(self.maximum, scores.shape[1]), dim=1)
        wanted = best >= self.least
        wanted[:, : self.minimum] = True
        return _padded(rows, best, wanted & (best > -math.inf), self.maximum)


class All:
    """Every row that the query may read, in the memory's order: as wide as the memory."""

    def select(self, scores: Float[Tensor, "queries rows"]) -> Selected:
        """Choose all rows; those that no query may read are left out."""
        mask = scores > -math.inf
        rows = mask.any(0).nonzero()[:, 0]
        return _padded(rows.expand(len(scores), -1), scores[:, rows], mask[:, rows], max(len(rows), 1))


def _padded(rows: Tensor, scores: Tensor, mask: Tensor, width: int) -> Selected:
    """Zeros where nothing was chosen, up to the stated width."""
    missing = (0, width - rows.shape[1])
    return Selected(pad(rows * mask, missing), pad(scores.masked_fill(~mask, 0), missing), pad(mask, missing))
