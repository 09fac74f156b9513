"""A reader of an external memory that writes its answer: a decoder with cross-attention to what was retrieved."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import Spec, map_tensors
from memnets.memory.block import Block
from memnets.memory.slots.base import Gathered
from memnets.memory.slots.integration import CrossAttention
from memnets.memory.slots.retrieved import RetrievedMemory, RetrievedState
from memnets.models.base import SequenceModel, check_spec
from memnets.models.generation import generate
from memnets.models.memory_transformer import MemoryTransformer, MemoryTransformerState
from memnets.retrieval.question import Prompt


class GeneratingReader(SequenceModel):
    """Question and answer are one text, of which a decoder expects the next word, reading the Block at each.

    As in Fusion-in-Decoder (Izacard & Grave 2020, arXiv:2007.01282), what was retrieved is encoded apart and all of it
    attended to at once; but encoded by the memory's frozen encoder, without the question. The decoder is a Memory
    Transformer, each layer of which attends to the text so far, then to the Block's items.

    Args:
        spec: the task's sizes.
        d_model: width of the network.
        num_layers: layers, each of which reads the Block.
        num_heads: heads of each attention; d_model / num_heads must be a multiple of 4.
        window: words of the text that one sees, itself included.
        feed_forward_size: width of the feed-forward part.
        dropout: share of every layer's contributions set to zero in training.
        reads_block: False is the closed book, the ablation of all memory: it goes on from the words alone.

    Raises:
        ValueError: a task without prompts, or d_model can't be split into heads.
    """

    accepts = frozenset({"prompt"})
    state_grows = True

    def __init__(
        self,
        spec: Spec,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        window: int = 32,
        feed_forward_size: int = 256,
        dropout: float = 0.0,
        reads_block: bool = True,
    ) -> None:
        super().__init__()
        check_spec(GeneratingReader, spec)
        self.reads_block = reads_block
        self.decoder = MemoryTransformer(
            Spec("tokens", spec.input_size, spec.output_size),
            d_model,
            num_layers,
            num_heads,
            window=window,
            feed_forward_size=feed_forward_size,
            dropout=dropout,
            memory=partial(RetrievedMemory, item_size=spec.item_size) if reads_block else None,
            integration=CrossAttention if reads_block else None,
        )

    @property
    def head(self) -> nn.Linear:
        """The decoder's."""
        return self.decoder.head

    def initial_state(self, batch_size: int) -> MemoryTransformerState:
        """Nothing read, nothing retrieved."""
        return self.decoder.initial_state(batch_size)

    def restart(self, state: MemoryTransformerState, starts: Bool[Tensor, " batch"]) -> MemoryTransformerState:
        """Return `state` with the rows marked in `starts` before their first word."""
        return self.decoder.restart(state, starts)

    def forward(
        self, inputs: Prompt, state: MemoryTransformerState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], MemoryTransformerState]:
        """Logits of the word after each, and the state after the last. The Block is that of the inputs, always."""
        state = self.initial_state(len(inputs.words)) if state is None else state
        outputs, after = self.decoder(inputs.words, self._beside(inputs.block, state))
        return outputs, after

    def go_on(self, inputs: Prompt, where: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """Likeliest words, each expected after those written before it, from the first place marked in a row on.

        What `inputs` has behind that place is not read. 0 before it.
        """
        starts, written = where.int().argmax(1), torch.zeros_like(inputs.words)
        for start in starts.unique().tolist():  # rows of a length, so that none has padding before what it writes
            rows = starts == start
            own: Prompt = map_tensors(lambda part: part[rows], inputs)  # noqa: B023
            read = partial(self._read, own.block)
            written[rows, start:] = generate(read, own.words[:, : start + 1], where.shape[1] - start, temperature=0.0)
        return written

    def word_attention(self, inputs: Prompt) -> Float[Tensor, "batch time items"] | None:
        """Weights of the Block's items as each word is read, the mean over layers and heads; None of the closed book.

        Hooks listen while the model reads the inputs, and are gone afterwards.
        """
        if not self.reads_block:
            return None
        seen: dict[nn.Module, list[Tensor]] = {memory: [] for memory in self.decoder.memories.values()}

        def listen(memory: nn.Module, given: Any, answer: tuple[Gathered, Any]) -> None:
            seen[memory].append(answer[0].weights.mean(1))

        hooks = [memory.register_forward_hook(listen) for memory in seen]
        try:
            self(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([torch.cat(chunks, dim=1) for chunks in seen.values()]).mean(0)

    def _read(self, block: Block, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self(Prompt(words, block), state)

    def _beside(self, block: Block, state: MemoryTransformerState) -> MemoryTransformerState:
        """The state with the Block as every layer's memory."""
        if not self.reads_block:
            return state
        retrieved = RetrievedState(block.vectors, block.mask, block.scores)
        return state._replace(layers=tuple(layer._replace(memory=retrieved) for layer in state.layers))
