"""What a read of an external memory returns, whatever the memory holds."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Block(NamedTuple):
    """What every query of a batch was given to read: entries, their tokens' states, or the nodes of a graph.

    Attributes:
        vectors: one per item that was read.
        mask: which items there are; the others are padding: no reader may give them weight.
        scores: how relevant the item is to its query; of padding anything finite.
        rows: the memory's row that an item came from: k entries of t tokens have t items of each row.
        tokens: the item's token in the encoder's vocabulary, where items are tokens.
        values: what an item says, as a class of the task, where entries have one; -1 where they have none.
    """

    vectors: Float[Tensor, "batch items word"]
    mask: Bool[Tensor, "batch items"]
    scores: Float[Tensor, "batch items"]
    rows: Int[Tensor, "batch items"]
    tokens: Int[Tensor, "batch items"] | None = None
    values: Int[Tensor, "batch items"] | None = None
