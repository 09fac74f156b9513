"""How what was retrieved becomes an answer: joined to the question, attended to, copied, voted on; or not read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.attention_score import AttentionScore, ScaledDotScore
from memnets.memory.block import Block
from memnets.ops.erase_add import read

LEAST = 1e-9
"""Probability of what nothing says, so that its log is finite."""

FIRST_RELEVANCE = 3.0
"""Where a learned multiple of relevance begins. At 1, a few hundred steps left cosines counting for too little."""

LEAST_SCORE = torch.finfo(torch.float32).min
"""Score of what must have no weight."""


class Integration(nn.Module, ABC):
    """Answers questions of a task's sizes from a Block. Padding in it has no weight; it may hold nothing."""

    @abstractmethod
    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Logits of the answers."""

    def attention(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch hops items"] | None:
        """Weights over the Block's items, in each hop; None where there are none such."""
        return None


class Attention(nn.Module):
    """Weights over items: softmax of what `score` makes of query and item, plus a learned multiple of relevance.

    Args:
        query_size: width of the query.
        word_size: width of an item.
        hidden_size: width in which they meet.
        score: makes the score, for that width.
    """

    def __init__(
        self, query_size: int, word_size: int, hidden_size: int, score: Callable[[int], AttentionScore]
    ) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, hidden_size)
        self.key = nn.Linear(word_size, hidden_size, bias=False)  # softmax would not see a bias
        self.score = score(hidden_size)
        self.relevance = nn.Parameter(torch.tensor(FIRST_RELEVANCE))

    def forward(
        self,
        query: Float[Tensor, "batch query"],
        items: Float[Tensor, "batch items word"],
        scores: Float[Tensor, "batch items"],
        mask: Bool[Tensor, "batch items"],
    ) -> Float[Tensor, "batch items"]:
        """Weights of the items in `mask`; 0 of the others, of all if there are none."""
        return masked_softmax(self.score.score(self.query(query), self.key(items)) + self.relevance * scores, mask)


class Concatenate(Integration):
    """Question and items become one sequence that attends to itself; what stands at the question's place is the answer.

    One layer of a Transformer without positions: items are a set. Each head adds a learned multiple of an item's
    relevance to its score; the question's own is 0. Only the question's place is computed.

    Args:
        spec: the task's sizes.
        hidden_size: width of the layer.
        num_heads: heads of its attention.

    Raises:
        ValueError: heads that don't divide the width.
    """

    def __init__(self, spec: Spec, hidden_size: int = 128, num_heads: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(f"Concatenate.num_heads={num_heads} must divide hidden_size={hidden_size}")
        self.query, self.value = (nn.Linear(spec.input_size, hidden_size) for _ in range(2))
        self.key = nn.Linear(spec.input_size, hidden_size, bias=False)  # softmax would not see a bias
        self.relevance = nn.Parameter(torch.full((num_heads, 1), FIRST_RELEVANCE))
        self.head = head(spec.input_size + hidden_size, hidden_size, spec.output_size)

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Logits of the head, from the question and what its place attends to."""
        sequence, weights = self._sequence(query, block), self._weights(query, block)
        values = rearrange(self.value(sequence), "b n (h w) -> b h n w", h=len(self.relevance))
        found = torch.einsum("bhn,bhnw->bhw", weights, values).flatten(1)
        return self.head(torch.cat([query, found], dim=-1))

    def attention(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch 1 items"]:
        """Weights over the items, mean over heads; what the question gives itself is left out."""
        return self._weights(query, block)[:, :, 1:].mean(1, keepdim=True)

    def _sequence(self, query: Tensor, block: Block) -> Float[Tensor, "batch places word"]:
        return torch.cat([query[:, None], block.vectors], dim=1)

    def _weights(self, query: Tensor, block: Block) -> Float[Tensor, "batch heads places"]:
        """Weights of the question's place over all places."""
        keys = rearrange(self.key(self._sequence(query, block)), "b n (h w) -> b h n w", h=len(self.relevance))
        asked = rearrange(self.query(query), "b (h w) -> b h w", h=len(self.relevance))
        scores = torch.einsum("bhw,bhnw->bhn", asked, keys) * asked.shape[-1] ** -0.5
        scores = scores + self.relevance * F.pad(block.scores, (1, 0))[:, None]
        return torch.softmax(scores.masked_fill(~F.pad(block.mask, (1, 0), value=True)[:, None], LEAST_SCORE), dim=-1)


class CrossAttention(Integration):
    """Reads the items in hops, each asked with what those before found; question and readings give the answer.

    u ← u + g · read, with the gate g = σ(G [u, read]) that lets a hop find nothing, if it is wanted.

    Args:
        spec: the task's sizes.
        num_hops: readings, of weights of their own.
        hidden_size: width of a reading, and of the head.
        gate: whether there are gates.
        score: makes what weighs the items, for that width: dot or additive.

    Raises:
        ValueError: no hop.
    """

    def __init__(
        self,
        spec: Spec,
        num_hops: int = 1,
        hidden_size: int = 128,
        gate: bool = False,
        score: Callable[[int], AttentionScore] = ScaledDotScore,
    ) -> None:
        super().__init__()
        if num_hops < 1:
            raise ValueError(f"CrossAttention.num_hops must be at least 1, not {num_hops}")
        width = spec.input_size
        self.start = nn.Linear(width, hidden_size)
        self.hops = nn.ModuleList(Attention(hidden_size, width, hidden_size, score) for _ in range(num_hops))
        self.values = nn.ModuleList(nn.Linear(width, hidden_size) for _ in range(num_hops))
        self.gates = nn.ModuleList(nn.Linear(2 * hidden_size, 1) for _ in range(num_hops if gate else 0))
        self.head = head(width + hidden_size, hidden_size, spec.output_size)

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Logits of the head, from the question and u after the last hop."""
        asked, _ = self._hops(query, block)
        return self.head(torch.cat([query, asked], dim=-1))

    def attention(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch hops items"]:
        """Weights of each hop."""
        return torch.stack(self._hops(query, block)[1], dim=1)

    def _hops(self, query: Tensor, block: Block) -> tuple[Tensor, list[Tensor]]:
        asked, attention = self.start(query), []
        for number, (attend, value) in enumerate(zip(self.hops, self.values, strict=True)):
            weights = attend(asked, block.vectors, block.scores, block.mask)
            found = value(read(block.vectors, weights[:, None]).squeeze(1))
            if self.gates:
                found = torch.sigmoid(self.gates[number](torch.cat([asked, found], dim=-1))) * found
            asked = asked + found
            attention.append(weights)
        return asked, attention


class Pointer(Integration):
    """Copies the answer: attends to those tokens that say one, and an answer has the weight of all its tokens.

    p(answer) = Σ of the weights of tokens that are this answer's (Vinyals, Fortunato & Jaitly 2015, arXiv:1506.03134,
    summed over places as Kadlec et al. 2016, arXiv:1603.01547, do). Uniform where no token says an answer.

    Args:
        spec: the task's sizes.
        hidden_size: width in which question and tokens meet.
        score: makes what weighs the tokens, for that width.

    Raises:
        ValueError: the task's memory gives no tokens.
    """

    def __init__(
        self, spec: Spec, hidden_size: int = 128, score: Callable[[int], AttentionScore] = ScaledDotScore
    ) -> None:
        super().__init__()
        if not spec.answer_tokens:
            raise ValueError(
                "Pointer copies answers from tokens, but the task's memory gives none: choose a memory of tokens "
                "(task.memory._target_=memnets.retrieval.sequence_memory.SequenceMemory), or another integration"
            )
        self.attend = Attention(spec.input_size, spec.input_size, hidden_size, score)
        self.answers: Int[Tensor, " output"]
        self.register_buffer("answers", torch.tensor(spec.answer_tokens), persistent=False)

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Log-probabilities, bar a constant."""
        says = self._says(block)
        weights = self._weights(query, block, says.any(-1))
        return torch.log(torch.einsum("bi,bio->bo", weights, says.to(weights.dtype)) + LEAST)

    def attention(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch 1 items"]:
        """Weights over the tokens."""
        return self._weights(query, block, self._says(block).any(-1))[:, None]

    def _says(self, block: Block) -> Bool[Tensor, "batch items output"]:
        """Which answer each token is."""
        if block.tokens is None:
            raise ValueError("Pointer needs a Block with tokens; this one was read from a memory without")
        return (block.tokens[..., None] == self.answers) & block.mask[..., None]

    def _weights(self, query: Tensor, block: Block, among: Tensor) -> Float[Tensor, "batch items"]:
        return self.attend(query, block.vectors, block.scores, among)


class NearestValues(Integration):
    """What was retrieved votes with its values, by relevance alone; the closed book has the rest of the votes.

    p = share · p_values + (1 - share) · p_closed, with p_values(answer) = Σ softmax(strength · relevance) over entries
    of this value (kNN-LM: Khandelwal et al. 2020, arXiv:1911.00172, equations 2 and 3), strength and share learned. An
    entry that was read as many tokens has one vote. Where nothing has a value, the share is 0.

    Args:
        spec: the task's sizes.
        hidden_size: width of the closed book's first layer.

    Raises:
        ValueError: the task's entries have no values.
    """

    def __init__(self, spec: Spec, hidden_size: int = 128) -> None:
        super().__init__()
        if not spec.has_values:
            raise ValueError(
                "NearestValues lets entries vote with their values, but the task's have none: give entries a value, or "
                "choose another integration"
            )
        self.closed = head(spec.input_size, hidden_size, spec.output_size)
        self.strength = nn.Parameter(torch.tensor(FIRST_RELEVANCE))
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch output"]:
        """Log-probabilities."""
        values, weights = _values(block), self._weights(block)
        own = self.closed(query).softmax(-1)
        voted = torch.zeros_like(own).scatter_add(1, values.clamp(min=0), weights)
        share = self.share.sigmoid() * weights.sum(-1, keepdim=True)
        return torch.log(share * voted + (1 - share) * own + LEAST)

    def attention(self, query: Float[Tensor, "batch word"], block: Block) -> Float[Tensor, "batch 1 items"]:
        """Votes of the items; an entry's tokens share its vote."""
        return self._weights(block)[:, None]

    def _weights(self, block: Block) -> Float[Tensor, "batch items"]:
        votes = block.mask & (_values(block) >= 0)
        same = (block.rows[:, :, None] == block.rows[:, None]) & votes[:, None]
        crowd = same.sum(-1).clamp(min=1).to(block.scores.dtype)
        return masked_softmax(self.strength.exp() * block.scores - crowd.log(), votes)


def head(input_size: int, hidden_size: int, output_size: int) -> nn.Sequential:
    """Return a network of two layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, output_size))


def masked_softmax(
    scores: Float[Tensor, "batch items"], mask: Bool[Tensor, "batch items"]
) -> Float[Tensor, "batch items"]:
    """Softmax over the items in `mask`; 0 for the others, for all if there are none."""
    return torch.softmax(scores.masked_fill(~mask, LEAST_SCORE), dim=-1) * mask


def _values(block: Block) -> Int[Tensor, "batch items"]:
    if block.values is None:
        raise ValueError("NearestValues needs a Block with values; this one was read from entries without")
    return block.values
