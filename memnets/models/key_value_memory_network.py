"""Key-value Memory Network (Miller, Fisch, Dodge, Karimi, Bordes & Weston 2016, arXiv:1606.03126)."""

from __future__ import annotations

from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Spec, Story
from memnets.memory.attention_score import DotScore
from memnets.memory.key_value import Representation, SentenceSlots, hashed
from memnets.memory.memory_network import PaddedEmbedding, ages, hop, normal
from memnets.models.base import SequenceModel, check_spec


class KeyValueMemoryNetwork(SequenceModel):
    """Finds slots of a story by their keys, reads their values in `num_hops` hops, and answers with one word.

    One matrix A embeds question, keys and values, all bags of words Φ (section 3.1):

    - q_1 = A Φ_X(x)
    - p_i = Softmax(q_jᵀ A Φ_K(k_i)) over the slots that key hashing leaves
    - o_j = Σ_i p_i A Φ_V(v_i)
    - q_{j+1} = R_j (q_j + o_j)
    - logits B q_{H+1}

    The paper does not say where R_j starts: here at the identity, at which a hop is that of a Memory Network.

    Args:
        spec: the task's sizes.
        representation: what keys and values hold; null makes sentences both.
        embedding_size: width of a slot and of the query, d in the paper.
        num_hops: H in the paper.
        temporal_encoding: Φ_K and Φ_V also say the sentence's age. The paper's documents are not told in time and have
            none; bAbI's stories cannot be answered without.
        hash_count: read only slots whose key has a word of the question that is in fewer than this many keys; null
            reads all. Later hops search the same slots, so it shuts out facts that are found by what was read.

    Raises:
        ValueError: no hop, no width, a count that keeps nothing, or a task that is no story.
    """

    accepts = frozenset({"story"})

    def __init__(
        self,
        spec: Spec,
        representation: Representation | None = None,
        embedding_size: int = 50,
        num_hops: int = 2,
        temporal_encoding: bool = True,
        hash_count: int | None = None,
    ) -> None:
        super().__init__()
        check_spec(KeyValueMemoryNetwork, spec)
        _at_least(1, embedding_size=embedding_size, num_hops=num_hops)
        _at_least(2, hash_count=2 if hash_count is None else hash_count)
        self.representation = SentenceSlots() if representation is None else representation
        self.num_words, self.hash_count = spec.input_size, hash_count
        self.words = PaddedEmbedding(spec.input_size * self.representation.num_dictionaries, embedding_size)
        self.max_age = spec.story_size
        self.ages = PaddedEmbedding(self.max_age + 1, embedding_size) if temporal_encoding else None
        self.updates = nn.Parameter(torch.eye(embedding_size).repeat(num_hops, 1, 1))
        self.answer = normal(spec.output_size, embedding_size)
        self.address = DotScore(embedding_size)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a story is read whole."""
        return ()

    def forward(self, inputs: Story, state: Any = None) -> tuple[Float[Tensor, "batch output"], tuple[()]]:
        """Logits B q_{H+1}: the paper's softmax over candidates, here all answers, comes with the loss."""
        query, _ = self._hops(inputs)
        return query @ self.answer.T, ()

    def attention(self, inputs: Story) -> Float[Tensor, "batch hops sentences"]:
        """Weights p of each hop, summed over a sentence's slots."""
        weights = torch.stack(self._hops(inputs)[1], dim=1)
        return reduce(weights, "b hops (sentences n) -> b hops sentences", "sum", sentences=inputs.story.shape[1])

    def _hops(self, inputs: Story) -> tuple[Tensor, list[Tensor]]:
        """q_{H+1}, and the weights of each hop over the slots."""
        slots = self.representation(inputs.story, self.num_words)
        told = (slots.keys != 0).any(-1)
        if self.hash_count is not None:
            told = told & hashed(slots.keys % self.num_words, inputs.query, self.hash_count)
        when = self._when(inputs, told.shape[1])
        keys, values = (self.words(bag).sum(-2) + when for bag in slots)
        query, attention = self.words(inputs.query).sum(-2), []
        for update in self.updates:
            found, weights = hop(query, keys, values, told, self.address)
            query = (query + found) @ update.T
            attention.append(weights)
        return query, attention

    def _when(self, inputs: Story, num_slots: int) -> Tensor:
        """Vector of each slot's age `[batch slots embedding]`, or 0."""
        if self.ages is None:
            return torch.zeros((), device=self.answer.device)
        age = ages(inputs.story).clamp(max=self.max_age)
        return self.ages(age.repeat_interleave(num_slots // max(age.shape[1], 1), dim=1))


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"KeyValueMemoryNetwork.{name} must be at least {minimum}, not {value}")
