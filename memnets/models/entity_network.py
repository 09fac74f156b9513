"""Recurrent Entity Network (Henaff, Weston, Szlam, Bordes & LeCun 2017, arXiv:1612.03969)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import Spec, Story
from memnets.memory.memory_network import PaddedEmbedding, is_told, normal
from memnets.models.base import SequenceModel, check_spec
from memnets.ops.content_address import content_read
from memnets.ops.entity_memory import CellWeights, entity_memory_reference, prelu, run_kernel, update_cells


class EntityNetworkState(NamedTuple):
    """What the cells hold."""

    memory: Float[Tensor, "batch slots word"]


class DynamicMemory(nn.Module):
    """Cells that each have a key w_j and are updated side by side, with the same U, V and W (section 2.2)."""

    def __init__(self, memory_size: int, word_size: int) -> None:
        super().__init__()
        self.keys = normal(memory_size, word_size)
        self.from_memory = normal(word_size, word_size)
        self.from_key = normal(word_size, word_size)
        self.from_sentence = normal(word_size, word_size)
        self.gate_bias = normal(memory_size)
        self.candidate_bias = normal(word_size)
        self.slopes = nn.Parameter(torch.ones(word_size))

    def weights(self) -> CellWeights:
        """The parameters, as ops take them. Slopes begin at 1, so φ begins as the identity."""
        return CellWeights(*(getattr(self, name) for name in CellWeights._fields))

    def forward(
        self,
        memory: Float[Tensor, "batch slots word"],
        sentence: Float[Tensor, "batch word"],
    ) -> Float[Tensor, "batch slots word"]:
        """Memory after a sentence, see `update_cells`."""
        return update_cells(memory, sentence, self.weights())


class EntityNetwork(SequenceModel):
    """Reads a story sentence by sentence into its cells, and answers a question from them with one word.

    The state is the memory: a story may be told in parts, and asked about after each. Where the paper's section 2 is
    silent this follows the authors' code: the memory begins as the keys; sentences and questions have a mask each, the
    question's begins at 1, a bag of words, the sentences' is drawn like all else; cells and answer share φ. Against its
    equations, and as in their code, each cell's gate has a bias a_j and the candidate a bias b.

    Args:
        spec: the task's sizes.
        memory_size: number of cells.
        word_size: width of a cell, of its key and of a word's embedding.

    Raises:
        ValueError: no cells, cells of no width, or a task that is no story.
    """

    accepts = frozenset({"story"})

    def __init__(self, spec: Spec, memory_size: int = 20, word_size: int = 100) -> None:
        super().__init__()
        check_spec(EntityNetwork, spec)
        _check(memory_size, word_size)
        self.words = PaddedEmbedding(spec.input_size, word_size)
        self.story_mask = normal(spec.sentence_size, word_size)
        self.query_mask = nn.Parameter(torch.ones(spec.sentence_size, word_size))
        self.memory = DynamicMemory(memory_size, word_size)
        self.from_read = normal(word_size, word_size)
        self.answer = normal(spec.output_size, word_size)

    def initial_state(self, batch_size: int) -> EntityNetworkState:
        """Every cell holds its key."""
        return EntityNetworkState(self.memory.keys.expand(batch_size, -1, -1))

    def forward(
        self, inputs: Story, state: EntityNetworkState | None = None
    ) -> tuple[Float[Tensor, "batch output"], EntityNetworkState]:
        """Logits y (equation 6), and the memory after the story.

        Raises:
            ValueError: sentences longer than the task said.
        """
        state = self.initial_state(len(inputs.query)) if state is None else state
        memory = self._tell(inputs.story, state.memory)
        return self._ask(inputs.query, memory), EntityNetworkState(memory)

    def compiled_part(self) -> nn.Module:
        """Return the step, which runs where no kernel serves: the loop would be compiled once per length of a story."""
        return self.memory

    def _tell(self, story: Int[Tensor, "batch sentences words"], memory: Tensor) -> Float[Tensor, "batch slots word"]:
        """Memory after all sentences, in order."""
        told = is_told(story)
        lengths, weights = told.sum(1), self.memory.weights()
        if torch._C._are_functorch_transforms_active():  # shapes can't follow the data
            return entity_memory_reference(memory, self._encode_story(_without_gaps(story, told)), lengths, weights)
        longest = max(lengths.tolist(), default=0)
        if not longest:
            return memory
        sentences = self._encode_story(_without_gaps(story, told)[:, :longest])
        after = run_kernel(memory, sentences, lengths, weights)
        return self._tell_each(sentences, lengths, memory) if after is None else after

    def _tell_each(
        self, sentences: Float[Tensor, "batch sentences word"], lengths: Int[Tensor, " batch"], memory: Tensor
    ) -> Float[Tensor, "batch slots word"]:
        """Step by step, each for the stories alone that go on.

        Longest stories first, so that those are the first rows, and a story that ends leaves its memory behind.
        """
        longest_first = lengths.argsort(descending=True)
        places = torch.arange(sentences.shape[1], device=lengths.device)
        going_on = (lengths[:, None] > places).sum(0).tolist()
        memory, ended = memory[longest_first], []
        for sentence, rows in zip(sentences[longest_first].unbind(1), going_on, strict=True):
            ended.append(memory[rows:])
            memory = self.memory(memory[:rows], sentence[:rows])
        return torch.cat([memory, *reversed(ended)])[longest_first.argsort()]

    def _encode_story(self, story: Int[Tensor, "batch sentences words"]) -> Float[Tensor, "batch sentences word"]:
        return _encode(self.words(story), self.story_mask)

    def _ask(self, query: Int[Tensor, "batch words"], memory: Tensor) -> Float[Tensor, "batch output"]:
        """y = R φ(q + H u), with u = Σ_j p_j h_j and p_j = Softmax(qᵀ h_j) (equation 6)."""
        asked = _encode(self.words(query), self.query_mask)
        found, _ = content_read(memory, asked[:, None], torch.ones_like(asked[:, :1]), similarity="dot")
        return prelu(asked + found[:, 0] @ self.from_read.T, self.memory.slopes) @ self.answer.T


def _without_gaps(
    story: Int[Tensor, "batch sentences words"], told: Bool[Tensor, "batch sentences"]
) -> Int[Tensor, "batch sentences words"]:
    """Each story's sentences in their order, and empty slots after the last."""
    order = (~told).long().argsort(dim=1, stable=True)
    return story.gather(1, order[:, :, None].expand_as(story))


def _encode(
    embedded: Float[Tensor, "*shape words word"], mask: Float[Tensor, "most_words word"]
) -> Float[Tensor, "*shape word"]:
    """s = Σ_i f_i ⊙ e_i (equation 1), with the mask's rows as f."""
    num_words = embedded.shape[-2]
    if num_words > len(mask):
        raise ValueError(f"a sentence has up to {num_words} words, but the task's sentence_size is {len(mask)}")
    return (embedded * mask[:num_words]).sum(-2)


def _check(memory_size: int, word_size: int) -> None:
    for name, size in {"memory_size": memory_size, "word_size": word_size}.items():
        if size < 1:
            raise ValueError(f"EntityNetwork.{name} must be at least 1, not {size}")
