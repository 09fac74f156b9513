"""End-to-end Memory Network (Sukhbaatar, Szlam, Weston & Fergus 2015, arXiv:1503.08895)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Spec, Story
from memnets.memory.attention_score import AttentionScore, DotScore, ScaledDotScore
from memnets.memory.block import Block, slots_block
from memnets.memory.memory_network import (
    PaddedEmbedding,
    SentenceEmbedding,
    ages,
    ages_among_blanks,
    hop,
    is_told,
    normal,
)
from memnets.models.base import SequenceModel, check_spec
from memnets.ops.backend import KERNELS, choose, current_backend
from memnets.ops.memory_hops import HopScheme, HopWeights, PositionEncoding, run_kernel

FUSED = (nn.ModuleList, SentenceEmbedding, PaddedEmbedding, DotScore, ScaledDotScore, nn.Identity, nn.ReLU)
"""Parts that the op `memory_hops` can express."""


class MemN2N(SequenceModel):
    """Reads a story in `num_hops` hops, each with what the hops before found, and answers with one word.

    Hop k embeds the story twice: as keys m with A^k, and as values c with C^k. How the hops share their matrices
    (section 2.2), with B embedding the question and W the answer:

    - `adjacent`: A^{k+1} = C^k, B = A^1, Wᵀ = C^K.
    - `layerwise`: A and C are the same in every hop, B and W are apart, and a linear map H updates the query.

    Args:
        spec: the task's sizes.
        embedding_size: width of a slot and of the query.
        num_hops: K in the paper.
        weight_tying: as above.
        position_encoding: weigh a sentence's words by where they stand, as the `paper` says, or `centred` as in its
            authors' code (`memnets.ops.memory_hops.position_weights` has both); `none` for a bag of words.
        temporal_encoding: add to each slot a learned vector of the sentence's age.
        attention_score: makes what weighs the sentences, for the embedding's width; all hops share it.
        random_noise: while training, tell among the sentences up to this share of empty memories (0.1 in the paper).
        activation: what the query passes after each hop: a ReLU in the network of 100 units; null for nothing.
        attend_empty: let empty memories, of score and value 0, take part in the softmax, as in the authors' code: a hop
            may then read little of anything. Else only sentences do.
        linear_start: begin without the softmax of equation 1; it comes with the second phase of training (section 4.2).

    Raises:
        ValueError: no hop, a share that is none, or a task that is no story or answers outside its vocabulary.
    """

    accepts = frozenset({"story"})

    def __init__(
        self,
        spec: Spec,
        embedding_size: int = 20,
        num_hops: int = 3,
        weight_tying: Literal["adjacent", "layerwise"] = "adjacent",
        position_encoding: PositionEncoding = "paper",
        temporal_encoding: bool = True,
        attention_score: Callable[[int], AttentionScore] = DotScore,
        random_noise: float = 0.0,
        activation: nn.Module | None = None,
        linear_start: bool = False,
        attend_empty: bool = False,
    ) -> None:
        super().__init__()
        check_spec(MemN2N, spec)
        _check(spec, num_hops, weight_tying, position_encoding)
        if not 0 <= random_noise <= 1:
            raise ValueError(f"MemN2N.random_noise must lie between 0 and 1, not {random_noise}")
        self.num_hops = num_hops
        self.adjacent = weight_tying == "adjacent"
        max_age = spec.story_size if temporal_encoding else 0

        def embedding(max_age: int) -> SentenceEmbedding:
            return SentenceEmbedding(spec.input_size, embedding_size, position_encoding, max_age, spec.sentence_size)

        num_embeddings = num_hops + 1 if self.adjacent else 2
        self.embeddings = nn.ModuleList(embedding(max_age) for _ in range(num_embeddings))
        self.question = None if self.adjacent else embedding(0)
        self.update = None if self.adjacent else normal(embedding_size, embedding_size)
        self.answer = None if self.adjacent else normal(spec.output_size, embedding_size)
        self.attention_score = attention_score(embedding_size)
        self.random_noise = random_noise
        self.activation = nn.Identity() if activation is None else activation
        self.attend_empty = attend_empty
        self.linear: Tensor | None
        self.register_buffer("linear", torch.tensor(True) if linear_start else None)

    @property
    def phases_left(self) -> int:
        """One, while the weights are linear."""
        return 0 if self.linear is None else int(self.linear)

    def enter_next_phase(self) -> None:
        """Put the softmax in."""
        if self.linear is None or not self.linear:
            super().enter_next_phase()
        else:
            self.linear.fill_(False)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a story is read whole."""
        return ()

    def forward(self, inputs: Story, state: Any = None) -> tuple[Float[Tensor, "batch output"], tuple[()]]:
        """Logits W(o^K + u^K), before the softmax of equation 3."""
        age = self._ages(inputs.story)
        query = self._fused_hops(inputs, age)
        if query is None:
            query, _ = self._hops(inputs, age)
        return query @ self._answer_table().T, ()

    def attention(self, inputs: Story) -> Float[Tensor, "batch hops sentences"]:
        """Weights p of each hop over the sentences (equation 1)."""
        return torch.stack(self._hops(inputs, self._ages(inputs.story))[1], dim=1)

    def block(self, inputs: Story, state: Any = None) -> Block:
        """What the last hop read: a slot for each sentence, with that hop's weight; empty memories are padding."""
        age = self._ages(inputs.story)
        weights = self._hops(inputs, age)[1][-1]
        return slots_block(self._tables()[-1].slots(inputs.story, age), is_told(inputs.story), weights[:, None])

    def _ages(self, story: Tensor) -> Tensor:
        age = ages(story)
        return ages_among_blanks(age, self.random_noise) if self.training and self.random_noise > 0 else age

    def _hops(self, inputs: Story, age: Tensor) -> tuple[Tensor, list[Tensor]]:
        """u^{k+1} = f(u^k + o^k) (equation 4; f the activation), with H u^k in place of u^k for layer-wise tying."""
        told = is_told(inputs.story)
        among = torch.ones_like(told) if self.attend_empty else told
        slots = [embedding.slots(inputs.story, age) for embedding in self._tables()]
        query, attention = self._embed_question(inputs.query), []
        for k in range(self.num_hops):
            keys, values = (slots[k], slots[k + 1]) if self.adjacent else slots
            found, weights = hop(query, keys, values, among, self._weigh)
            query = self.activation((query if self.update is None else query @ self.update.T) + found)
            attention.append(weights * told)
        return query, attention

    def _weigh(self, query: Tensor, keys: Tensor, told: Tensor) -> Tensor:
        """p (equation 1). Whether it is linear isn't asked in Python: replicas under vmap may differ in it."""
        weights = self.attention_score(query, keys, told)
        if self.linear is None:
            return weights
        return torch.where(self.linear, self.attention_score.linear(query, keys, told), weights)

    def _fused_hops(self, inputs: Story, age: Tensor) -> Tensor | None:
        """The last query from a kernel; None if none serves.

        Raises:
            BackendError: the backend asked for by name can't serve.
        """
        if current_backend() == "reference":
            return None
        if reason := self._obstacle():
            choose("memory_hops", dict.fromkeys(KERNELS, lambda: reason))
            return None
        tables = self._tables()
        questions = [] if self.question is None else [self.question]
        times: list[Tensor] = [table.ages.weight for table in tables if table.ages is not None]
        weights = HopWeights(
            torch.stack([table.words.weight for table in [*tables, *questions]]),
            tables[0].weigh_times(torch.stack(times)) if times else None,
            self.update,
        )
        relu, scale = isinstance(self.activation, nn.ReLU), cast(DotScore, self.attention_score).scale
        kind, most_words = tables[0].position_encoding, tables[0].most_words
        scheme = HopScheme(self.num_hops, self.adjacent, kind, relu, scale, self.attend_empty, most_words)
        return run_kernel(inputs.story, inputs.query, weights, scheme, age if times else None, self.linear)

    def _obstacle(self) -> str | None:
        """Return what the op can't express, None if nothing.

        The rule: it serves this project's embeddings, a dot product as score, and a ReLU or nothing after a hop. A
        subclass may compute something else; so may a module that is watched by hooks.
        """
        parts = list(self.modules())[1:]
        if other := [type(part).__name__ for part in parts if type(part) not in FUSED]:
            return f"it has no {', '.join(dict.fromkeys(other))}"
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            return "it wouldn't call the hooks of the network's parts"
        return None

    def _embed_question(self, query: Tensor) -> Tensor:
        return self._tables()[0](query) if self.question is None else self.question(query)

    def _answer_table(self) -> Tensor:
        return self._tables()[-1].words.table() if self.answer is None else self.answer

    def _tables(self) -> list[SentenceEmbedding]:
        return cast("list[SentenceEmbedding]", list(self.embeddings))


def _check(spec: Spec, num_hops: int, weight_tying: str, position_encoding: str) -> None:
    if weight_tying not in ("adjacent", "layerwise"):
        raise ValueError(f"MemN2N.weight_tying must be adjacent or layerwise, not {weight_tying!r}")
    if position_encoding not in get_args(PositionEncoding):
        names = ", ".join(get_args(PositionEncoding))
        raise ValueError(f"MemN2N.position_encoding must be one of {names}, not {position_encoding!r}")
    if num_hops < 1:
        raise ValueError(f"MemN2N.num_hops must be at least 1, not {num_hops}")
    if weight_tying == "adjacent" and spec.output_size != spec.input_size:
        raise ValueError(
            f"adjacent weight tying answers with the words it reads, so the task's {spec.output_size} outputs must be "
            f"its {spec.input_size} words: choose weight_tying=layerwise"
        )
