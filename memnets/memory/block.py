"""What a read of a memory returns, whatever the memory holds and wherever it is: outside a model or inside."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memnets.contracts import Ratio


class Block(NamedTuple):
    """What every query of a batch was given to read: entries, their tokens' states, slots, or the nodes of a graph.

    Attributes:
        vectors: one per item that was read.
        mask: which items there are; the others are padding: no reader may give them weight.
        scores: how relevant the item is to its query, or the weight that a model read it with; of padding anything
            finite.
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

    def use(self) -> dict[str, Ratio]:
        """How full the memory is and how widely it was read, where scores are weights (`SequenceModel.block`).

        - `memory_usage`: share of the items that there are.
        - `memory_entropy`: of the weights among these, in nats, where they have any.
        """
        weights = (self.scores.detach().double() * self.mask).clamp(min=0)
        total = weights.sum(-1, keepdim=True)
        shares = weights / torch.where(total > 0, total, 1.0)
        usage = Ratio(self.mask.sum().double(), torch.ones_like(self.mask).sum().double())
        return {"memory_usage": usage, "memory_entropy": entropy(shares, total.squeeze(-1) > 0)}


def slots_block(
    memory: Float[Tensor, "batch slots word"],
    held: Bool[Tensor, "batch slots"],
    weights: Float[Tensor, "batch reads slots"],
) -> Block:
    """Return all slots of a memory, those that hold something marked, with the mean of their weights over the reads."""
    rows = torch.arange(memory.shape[1], device=memory.device).expand(memory.shape[:2])
    return Block(memory, held, weights.mean(1), rows)


def entropy(weights: Float[Tensor, "*rows items"], where: Bool[Tensor, "*rows"]) -> Ratio:
    """Return the entropy of the weights of the marked rows, in nats."""
    each = torch.special.entr(weights.double()).sum(-1)
    return Ratio((each * where).sum(), where.sum().double())
