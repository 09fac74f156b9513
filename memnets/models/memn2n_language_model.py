"""End-to-end Memory Network as a language model (Sukhbaatar et al. 2015, arXiv:1503.08895, section 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import skip_init

from memnets.contracts import Spec
from memnets.memory.memory_network import PaddedEmbedding
from memnets.memory.previous_words import PreviousWords
from memnets.models.base import SequenceModel, check_spec

FIRST_QUERY = 0.1
"""Every component of the query before the first hop: there is no question to embed (section 5)."""

INIT_STD = 0.05
"""Standard deviation of the normal distribution that parameters start from (section 5)."""


class MemN2NLanguageModelState(NamedTuple):
    """Words a later place may still see, oldest first: ids + 1, and 0 where a text had not begun."""

    words: Int[Tensor, "batch before"]


class MemN2NLanguageModel(SequenceModel):
    """Predicts each word from the `memory_size` words before it, a slot each, found and read in `num_hops` hops.

    Hops share A and C and update the query by H (layer-wise, RNN-like tying, section 2.2):

    - u^1 = 0.1, whatever the text
    - p_i = Softmax(uᵀ m_i) with m_i = A x_i + T_A(i), and o = Σ_i p_i c_i with c_i = C x_i + T_C(i); i is the age
    - u^{k+1} = f(H u^k + o^k), where f is a ReLU on the second half of the units and nothing on the first
    - logits W u^{K+1}

    As u^1 says nothing of the words, the first hop weighs each by itself and its age. All places of a segment are
    computed side by side, and the state is the words that the next segment still sees, so that cutting changes nothing.

    Args:
        spec: the task's sizes.
        embedding_size: width of a slot and of the query.
        memory_size: words in memory.
        num_hops: K in the paper.

    Raises:
        ValueError: a size below 1, or a task that has no tokens.
    """

    accepts = frozenset({"tokens"})

    def __init__(self, spec: Spec, embedding_size: int = 150, memory_size: int = 100, num_hops: int = 6) -> None:
        super().__init__()
        check_spec(MemN2NLanguageModel, spec)
        _check(embedding_size, memory_size, num_hops)
        self.memory_size, self.num_hops = memory_size, num_hops
        self.output = skip_init(nn.Linear, embedding_size, spec.output_size, bias=False)
        self.keys = PaddedEmbedding(spec.input_size + 1, embedding_size)
        self.values = PaddedEmbedding(spec.input_size + 1, embedding_size)
        self.age_keys = nn.Parameter(torch.empty(memory_size, embedding_size))
        self.age_values = nn.Parameter(torch.empty(memory_size, embedding_size))
        self.update = nn.Parameter(torch.empty(embedding_size, embedding_size))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD)

    def initial_state(self, batch_size: int) -> MemN2NLanguageModelState:
        """No word yet."""
        nothing = torch.zeros(batch_size, self.memory_size - 1, dtype=torch.long, device=self.update.device)
        return MemN2NLanguageModelState(nothing)

    def forward(
        self, inputs: Int[Tensor, "batch time"], state: MemN2NLanguageModelState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], MemN2NLanguageModelState]:
        """Logits of the word after each place, and the words that places to come still see."""
        state = self.initial_state(len(inputs)) if state is None else state
        words = torch.cat([state.words, inputs + 1], dim=1)
        query = self._hops(words)
        return self.output(query), MemN2NLanguageModelState(words[:, inputs.shape[1] :])

    def _hops(self, words: Int[Tensor, "batch words"]) -> Float[Tensor, "batch places embedding"]:
        """u^{K+1} of every place whose slots `words` holds."""
        memory = PreviousWords(self.keys(words), self.values(words), self.age_keys, self.age_values, words != 0)
        num_places = words.shape[1] - self.memory_size + 1
        query = memory.keys.new_full((len(words), num_places, memory.keys.shape[2]), FIRST_QUERY)
        for _ in range(self.num_hops):
            found, _ = memory.hop(query)
            query = half_rectified(query @ self.update.T + found)
        return query


def half_rectified(units: Float[Tensor, "*shape embedding"]) -> Float[Tensor, "*shape embedding"]:
    """ReLU of the second half of the units; the first passes unchanged (section 5)."""
    linear, rectified = units.tensor_split([units.shape[-1] // 2], dim=-1)
    return torch.cat([linear, F.relu(rectified)], dim=-1)


def _check(embedding_size: int, memory_size: int, num_hops: int) -> None:
    for name, size in {"embedding_size": embedding_size, "memory_size": memory_size, "num_hops": num_hops}.items():
        if size < 1:
            raise ValueError(f"MemN2NLanguageModel.{name} must be at least 1, not {size}")
