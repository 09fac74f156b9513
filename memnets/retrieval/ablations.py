"""What an external memory is worth: readers of none, and of one that is never written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.attention_score import AttentionScore, ScaledDotScore
from memnets.memory.block import Block
from memnets.ops.erase_add import read
from memnets.retrieval.integration import Integration, head


class ClosedBook(Integration):
    """A network of two layers answers from the question alone: the ablation of all memory.

    Args:
        spec: the task's sizes.
        hidden_size: width of its first layer.
    """

    def __init__(self, spec: Spec, hidden_size: int = 128) -> None:
        super().__init__()
        self.head = head(spec.input_size, hidden_size, spec.output_size)

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Logits of the head."""
        return self.head(query)


class ConstantMemory(Integration):
    """Attends to learned vectors in place of the Block: a memory that is never written, so it can't hold new facts.

    Args:
        spec: the task's sizes.
        num_slots: learned vectors.
        hidden_size: their width, and that of the head.
        score: makes what weighs them, for that width.

    Raises:
        ValueError: no slots.
    """

    def __init__(
        self,
        spec: Spec,
        num_slots: int = 64,
        hidden_size: int = 128,
        score: Callable[[int], AttentionScore] = ScaledDotScore,
    ) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"ConstantMemory.num_slots must be at least 1, not {num_slots}")
        self.slots = nn.Parameter(0.1 * torch.randn(num_slots, hidden_size))
        self.query = nn.Linear(spec.input_size, hidden_size)
        self.score = score(hidden_size)
        self.head = head(spec.input_size + hidden_size, hidden_size, spec.output_size)

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Logits of the head, from the question and what was read."""
        slots = self.slots.expand(len(query), -1, -1)
        told = torch.ones_like(slots[..., 0], dtype=torch.bool)
        weights = self.score(self.query(query), slots, told)
        return self.head(torch.cat([query, read(slots, weights[:, None]).squeeze(1)], dim=-1))
