"""A reader whose document stands in a memory alone: the question is encoded, the memory read, the answer pointed at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.block import Block
from memnets.models.base import SequenceModel, check_spec
from memnets.models.text_encoder import SmallTextEncoder, TextEncoder
from memnets.retrieval.passages import HIDDEN, Passages


class MemoryReader(SequenceModel):
    """An encoder, a memory written from the document, multi-head attention between the two, and a pointer.

    ```
    question ── encoder ── states ──┐ reads              start, end
    document ── encoder ── memory ──┴ attention ── read ─── · ───  memory's slots
    ```

    Question and document are one sequence with token types 0 and 1, but neither sees the other in the encoder: what is
    known of the document is what was written, a slot for each of its tokens. The question's states read the memory, the
    slots read what the question then knows, and start and end are the slots nearest to what was read.

    Not `written`, the memory is learned slots, one for each place of a passage and the same for all: the closed book.
    All it can know is where answers usually stand.

    Args:
        spec: the task's sizes; it asks for spans alone.
        encoder: makes the encoder, for a number of tokens.
        num_heads: heads of both attentions.
        written: whether the memory is written from the document.
        memory_size: slots of a memory that isn't; further places begin with the first again.
        encoder_rate: learning rate of the encoder as a part of that of the rest.

    Raises:
        ValueError: the task is not one of spans of texts, or num_heads does not divide the encoder's width.
    """

    accepts = frozenset({"text"})
    can_answer = frozenset({"span"})

    def __init__(
        self,
        spec: Spec,
        encoder: Callable[[int], TextEncoder] = SmallTextEncoder,
        num_heads: int = 4,
        written: bool = True,
        memory_size: int = 512,
        encoder_rate: float = 1.0,
    ) -> None:
        super().__init__()
        check_spec(MemoryReader, spec)
        self.encoder, self.encoder_rate = encoder(spec.input_size), encoder_rate
        size = self.encoder.size
        if num_heads < 1 or size % num_heads:
            raise ValueError(f"MemoryReader.num_heads={num_heads} must divide the encoder's width, {size}")
        self.slots = None if written else nn.Parameter(torch.randn(memory_size, size) / size**0.5)
        self.read, self.ask = (nn.MultiheadAttention(size, num_heads, batch_first=True) for _ in range(2))
        self.known, self.asked = nn.LayerNorm(size), nn.LayerNorm(size)
        self.point = nn.Linear(size, 2 * size)

    @property
    def rate_factors(self) -> dict[str, float]:
        """The encoder learns at a rate of its own."""
        return {"encoder": self.encoder_rate}

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: the memory is written anew for each question."""
        return ()

    def forward(self, inputs: Passages, state: Any = None) -> tuple[Float[Tensor, "batch 2 places"], tuple[()]]:
        """Logits of start and end at the places of the passages, passage after passage."""
        block = self.write(inputs)
        question, missing = self._question(inputs)
        found, _ = self.read(question, block.vectors, block.vectors, key_padding_mask=~block.mask, need_weights=False)
        known = self.known(question + found)
        told, _ = self.ask(block.vectors, known, known, key_padding_mask=missing, need_weights=False)
        slots = self.asked(block.vectors + told)
        present = (~missing)[..., None].to(known.dtype)
        pointers = self.point((known * present).sum(1) / present.sum(1)).unflatten(-1, (2, -1))
        logits = torch.einsum("bpd,bnd->bpn", pointers, slots).float() * slots.shape[-1] ** -0.5
        return logits.masked_fill(~inputs.readable.flatten(1)[:, None], HIDDEN), ()

    def write(self, inputs: Passages) -> Block:
        """Return the memory: a slot for each place of the passages."""
        mask, tokens = inputs.readable.flatten(1), inputs.tokens.flatten(1)
        time = inputs.tokens.shape[-1]
        if self.slots is None:
            document = (inputs.tokens * (inputs.types == 1)).flatten(0, 1)
            states = self.encoder(self.encoder.words(document), document, inputs.types.flatten(0, 1))
            vectors = rearrange(states, "(b k) t d -> b (k t) d", b=len(tokens))
        else:
            places = torch.arange(time, device=tokens.device).repeat(inputs.tokens.shape[1])
            vectors = self.slots[places % len(self.slots)].expand(len(tokens), -1, -1)
        rows = inputs.rows.repeat_interleave(time, 1)
        return Block(vectors, mask, inputs.relevance.repeat_interleave(time, 1), rows, tokens)

    def _question(self, inputs: Passages) -> tuple[Float[Tensor, "batch words size"], Tensor]:
        """States of the questions' tokens, and where there are none."""
        length = int((inputs.types[:, 0] == 0).logical_and(inputs.tokens[:, 0] != 0).sum(-1).max())
        tokens = (inputs.tokens[:, 0] * (inputs.types[:, 0] == 0))[:, :length]
        return self.encoder(self.encoder.words(tokens), tokens, torch.zeros_like(tokens)), tokens == 0
