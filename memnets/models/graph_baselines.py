"""What a graph reader is compared with: key-value memory over the graph's triples, and no graph at all."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.contracts import Edges, GraphQuestion, Spec
from memnets.memory.memory_network import normal
from memnets.models.base import SequenceModel, check_spec
from memnets.models.graph_reader import HopDecoder, QuestionEncoder, at_least_one


class KeyValueGraphReader(SequenceModel):
    """Key-value memory over triples: source and relation are the key, the target the value (arXiv:1606.03126).

    A key's vector is a bag of two words, A_source + A_relation, and a value's A_target (section 3.2, "KB triple"). Hop
    t asks with q_t: p = Softmax(q_tᵀ key) over the triples that key hashing leaves, o_t = Σ p value, and
    q_(t+1) = R_t [q_t; o_t; what the question says of hop t + 1]. The answer is the entity with the highest q_(H+1)ᵀ A.
    `KeyValueMemoryNetwork` reads stories, a vector per slot and question; here all questions may share thousands of
    triples, so scores are taken of entities and relations and then looked up, and no triple's vector is ever made.

    Args:
        spec: the task's sizes.
        hidden_size: width of slots, of the query and of the question's encoder.
        num_hops: times the memory is read.
        key_hashing: hop t reads only triples whose source is at most t - 1 steps from the question's entity (for t = 1
            that is section 3.1: the key shares a word with the question); else all.

    Raises:
        ValueError: no hop, no width, or a task that is no question about a graph.
    """

    accepts = frozenset({"graph"})

    def __init__(self, spec: Spec, hidden_size: int = 64, num_hops: int = 3, key_hashing: bool = True) -> None:
        super().__init__()
        check_spec(KeyValueGraphReader, spec)
        at_least_one(KeyValueGraphReader, hidden_size=hidden_size, num_hops=num_hops)
        self.key_hashing = key_hashing
        self.decoder = HopDecoder(spec.input_size, hidden_size, num_hops)
        self.entities = normal(spec.output_size, hidden_size)
        self.relations = normal(spec.num_relations, hidden_size)
        self.start = nn.Linear(2 * hidden_size, hidden_size)
        self.updates = nn.ModuleList(nn.Linear(3 * hidden_size, hidden_size) for _ in range(num_hops - 1))
        self.last = nn.Linear(2 * hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a question is read whole."""
        return ()

    def forward(self, inputs: GraphQuestion, state: Any = None) -> tuple[Float[Tensor, "batch nodes"], tuple[()]]:
        """Logits q_(H+1)ᵀ A of the entities."""
        hops = self.decoder(inputs.words).unbind(1)
        query = self.start(torch.cat([self.entities[inputs.node], hops[0]], dim=-1))
        reached = F.one_hot(inputs.node, len(self.entities)).bool()
        for hop, update in zip(hops[1:], self.updates, strict=True):
            found = self._read(query, inputs.edges, reached)
            query = update(torch.cat([query, found, hop], dim=-1))
            reached = reached | _next(reached, inputs.edges)
        found = self._read(query, inputs.edges, reached)
        return self.last(torch.cat([query, found], dim=-1)) @ self.entities.T, ()

    def _read(
        self, query: Float[Tensor, "batch hidden"], edges: Edges, reached: Bool[Tensor, "batch nodes"]
    ) -> Float[Tensor, "batch hidden"]:
        """The values' mean, weighted by how well keys fit."""
        of_sources, of_relations = query @ self.entities.T, query @ self.relations.T
        readable = edges.mask & reached.gather(1, edges.source) if self.key_hashing else edges.mask
        scores = of_sources.gather(1, edges.source) + of_relations.gather(1, edges.relation)
        lowest = torch.finfo(scores.dtype).min  # where nothing is readable, nothing is NaN
        weights = scores.masked_fill(~readable, lowest).softmax(-1) * readable
        return torch.zeros_like(of_sources).scatter_add(1, edges.target, weights) @ self.entities


def _next(reached: Bool[Tensor, "batch nodes"], edges: Edges) -> Bool[Tensor, "batch nodes"]:
    """Nodes that an edge leads to from one that is reached."""
    sent = reached.gather(1, edges.source) & edges.mask
    return torch.zeros_like(reached, dtype=torch.int32).scatter_add(1, edges.target, sent.int()) > 0


class ClosedBookGraphReader(SequenceModel):
    """Sees no graph: whatever it knows of one, its weights have learned by heart.

    Args:
        spec: the task's sizes.
        hidden_size: of the question's encoder and of the entities' vectors.
        wide_size: of the layer that joins them.

    Raises:
        ValueError: no width, or a task that is no question about a graph.
    """

    accepts = frozenset({"graph"})

    def __init__(self, spec: Spec, hidden_size: int = 64, wide_size: int = 256) -> None:
        super().__init__()
        check_spec(ClosedBookGraphReader, spec)
        at_least_one(ClosedBookGraphReader, hidden_size=hidden_size, wide_size=wide_size)
        self.encoder = QuestionEncoder(spec.input_size, hidden_size)
        self.entities = nn.Embedding(spec.output_size, hidden_size)
        self.wide = nn.Linear(2 * hidden_size, wide_size)
        self.output = nn.Linear(wide_size, spec.output_size)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a question is read whole."""
        return ()

    def forward(self, inputs: GraphQuestion, state: Any = None) -> tuple[Float[Tensor, "batch nodes"], tuple[()]]:
        """Logits of the entities."""
        _, question = self.encoder(inputs.words)
        joined = self.wide(torch.cat([question, self.entities(inputs.node)], dim=-1))
        return self.output(F.relu(joined)), ()
