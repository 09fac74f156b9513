"""Answers a question about a graph by following its edges, as the question's words say."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from memnets.contracts import GraphQuestion, Spec
from memnets.models.base import SequenceModel, check_spec
from memnets.ops.walk import walk

FLOOR = 1e-6
"""Added to a node's weight before its logarithm: finite for nodes that nothing reaches, and a gradient to them."""


class QuestionEncoder(nn.Module):
    """A GRU over a question's words (0 is padding, at the end)."""

    def __init__(self, num_words: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, hidden_size)
        self.recurrence = nn.GRU(hidden_size, hidden_size, batch_first=True)

    def forward(
        self, words: Int[Tensor, "batch words"]
    ) -> tuple[Float[Tensor, "batch words hidden"], Float[Tensor, "batch hidden"]]:
        """States at every word, and the state after the last one that is no padding."""
        states, _ = self.recurrence(self.embedding(words))
        last = (words != 0).sum(1).clamp(min=1) - 1
        return states, states[torch.arange(len(words), device=words.device), last]


class HopDecoder(nn.Module):
    """Says for each hop what is asked for: a GRU that looks at the question's words once every hop.

    c_t = Σ_i Softmax_i(s_tᵀ W h_i) h_i and s_(t+1) = GRU(c_t, s_t), from s_1 = the question's last state; the hop's
    vector is s_(t+1) (after Yang, Yang & Cohen 2017, arXiv:1702.08367, section 3.3, whose decoder reads a query that
    is one token).
    """

    def __init__(self, num_words: int, hidden_size: int, num_hops: int) -> None:
        super().__init__()
        self.encoder = QuestionEncoder(num_words, hidden_size)
        self.address = nn.Linear(hidden_size, hidden_size, bias=False)
        self.recurrence = nn.GRUCell(hidden_size, hidden_size)
        self.num_hops = num_hops

    def forward(self, words: Int[Tensor, "batch words"]) -> Float[Tensor, "batch hops hidden"]:
        """Return a vector for each hop."""
        states, state = self.encoder(words)
        hops = []
        for _ in range(self.num_hops):
            scores = torch.einsum("bh,bth->bt", self.address(state), states)
            weights = scores.masked_fill(words == 0, -torch.inf).softmax(-1)
            state = self.recurrence(torch.einsum("bt,bth->bh", weights, states), state)
            hops.append(state)
        return torch.stack(hops, dim=1)


class GraphReader(SequenceModel):
    """Weights of nodes start at the question's node and follow the graph for `num_hops` steps; what they reach answers.

    Every hop's vector gives weights over relations and, to stop early, a null relation (`memnets.ops.walk`).
    Words and relations are all that has parameters, so a graph never seen is read as well as the one trained on.
    Several chains start alike and follow relations of their own, and a node's weight is the sum of theirs: what one
    chain can't say, as "mother's son or father's son, and not mother's father", a sum of chains of rank `num_chains`
    can (Sadeghian, Armandpour, Ding & Wang 2019, arXiv:1911.00321, equation 7).

    Args:
        spec: the task's sizes.
        hidden_size: of the question's encoder and of the hops.
        num_hops: longest path.
        num_chains: chains whose weights are summed.

    Raises:
        ValueError: no hop, no width, or a task that is no question about a graph.
    """

    accepts = frozenset({"graph"})

    def __init__(self, spec: Spec, hidden_size: int = 64, num_hops: int = 3, num_chains: int = 1) -> None:
        super().__init__()
        check_spec(GraphReader, spec)
        at_least_one(GraphReader, hidden_size=hidden_size, num_hops=num_hops, num_chains=num_chains)
        self.num_nodes = spec.output_size
        self.decoder = HopDecoder(spec.input_size, hidden_size, num_hops)
        self.num_chains = num_chains
        self.relations = nn.Linear(hidden_size, num_chains * (spec.num_relations + 1))

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a question is read whole."""
        return ()

    def forward(self, inputs: GraphQuestion, state: Any = None) -> tuple[Float[Tensor, "batch nodes"], tuple[()]]:
        """Logarithms of the nodes' weights after the last hop."""
        reached = walk(inputs.node, self.relation_weights(inputs.words), *inputs.edges, self.num_nodes)
        return torch.log(reached + FLOOR), ()

    def relation_weights(
        self, words: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch chains hops relations_and_stay"]:
        """What each hop of each chain follows: a distribution over relations, and the null relation last."""
        scores = self.relations(self.decoder(words))
        return rearrange(scores, "b t (c r) -> b c t r", c=self.num_chains).softmax(-1)


def at_least_one(model: type[SequenceModel], **sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: naming the size.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{model.__name__}.{name} must be at least 1, not {size}")
