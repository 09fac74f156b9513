"""A reader of texts: question and passage go through one encoder together, and heads answer from its states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.models.base import SequenceModel, check_spec
from memnets.models.text_encoder import SmallTextEncoder, TextEncoder
from memnets.retrieval.passages import HIDDEN, MaskedText, Passages, TextPair


class SpanReader(SequenceModel):
    """BERT's way of extractive reading (Devlin et al. 2019, arXiv:1810.04805, section 4.2), with a head for each use.

    - `span`: logits of a start and an end at each token of a question's passages, normalised over all of these together
      (Clark & Gardner 2018, arXiv:1710.10723, section 3.2). From a token's state h and h ⊙ q, q being the mean of the
      states of the question's tokens.
    - `class`: logits of a pair's class, from the state of its first token.
    - `tokens`: logits of hidden tokens, by the encoder's own embeddings (ibid., section 3.1, task 1).

    Tokens of a passage that its question has too are marked in their embeddings (exact match: Chen et al. 2017,
    arXiv:1704.00051, section 3.2): few examples teach an encoder to look for them.

    Args:
        spec: the task's sizes and the heads it asks for.
        encoder: makes the encoder, for a number of tokens.
        encoder_rate: learning rate of the encoder as a part of that of the heads.

    Raises:
        ValueError: the task is not one of texts, or encoder_rate is negative.
    """

    accepts = frozenset({"text"})
    can_answer = frozenset({"span", "tokens", "class"})

    def __init__(
        self, spec: Spec, encoder: Callable[[int], TextEncoder] = SmallTextEncoder, encoder_rate: float = 1.0
    ) -> None:
        super().__init__()
        check_spec(SpanReader, spec)
        if encoder_rate < 0:
            raise ValueError(f"SpanReader.encoder_rate must not be negative, not {encoder_rate}")
        self.encoder, self.encoder_rate = encoder(spec.input_size), encoder_rate
        size = self.encoder.size
        self.same = nn.Parameter(torch.zeros(size)) if "span" in spec.heads else None
        heads = {"span": lambda: nn.Linear(2 * size, 2), "class": lambda: nn.Linear(size, spec.output_size),
                 "tokens": lambda: TokenHead(size, spec.input_size)}  # fmt: skip
        self.heads = nn.ModuleDict({name: heads[name]() for name in spec.heads})

    @property
    def rate_factors(self) -> dict[str, float]:
        """The encoder learns at a rate of its own."""
        return {"encoder": self.encoder_rate}

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a text is read at once."""
        return ()

    def forward(self, inputs: Passages | MaskedText | TextPair, state: Any = None) -> tuple[Tensor, tuple[()]]:
        """Logits: of spans `[batch 2 places]`, of hidden tokens `[batch places words]`, of classes `[batch class]`.

        A span's places are the passages' tokens, passage after passage.

        Raises:
            ValueError: the task's spec asked for no such head.
        """
        kind = {Passages: "span", MaskedText: "tokens", TextPair: "class"}[type(inputs)]
        if kind not in self.heads:
            raise ValueError(f"this SpanReader has no head {kind!r}: its task's spec asked for {', '.join(self.heads)}")
        if isinstance(inputs, Passages):
            return self._spans(inputs), ()
        if isinstance(inputs, TextPair):
            return self._answer("class", self._states(inputs.tokens, inputs.types)[:, 0]), ()
        states = self._states(inputs.tokens, torch.zeros_like(inputs.tokens))
        asked = states.gather(1, inputs.asked[..., None].expand(-1, -1, states.shape[-1]))
        return self.heads["tokens"](asked, self.encoder.words.weight), ()

    def _spans(self, inputs: Passages) -> Float[Tensor, "batch 2 places"]:
        tokens, types = inputs.tokens.flatten(0, 1), inputs.types.flatten(0, 1)
        states = self._states(tokens, types)
        asked = ((types == 0) & (tokens != 0))[..., None].to(states.dtype)
        question = (states * asked).sum(1, keepdim=True) / asked.sum(1, keepdim=True).clamp(min=1)
        logits = self._answer("span", torch.cat([states, states * question], dim=-1))
        logits = logits.unflatten(0, inputs.relevance.shape).masked_fill(~inputs.readable[..., None], HIDDEN)
        return logits.flatten(1, 2).mT

    def _states(self, tokens: Int[Tensor, "rows time"], types: Int[Tensor, "rows time"]) -> Tensor:
        embedded = self.encoder.words(tokens)
        if self.same is not None:
            embedded = embedded + same_as_asked(tokens, types)[..., None] * self.same
        return self.encoder(embedded, tokens, types)

    def _answer(self, head: str, states: Tensor) -> Tensor:
        """Return a head's logits; never in bfloat16, in which near ones are equal."""
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = self.heads[head](states.float() if states.dtype == torch.bfloat16 else states)
        return logits


class TokenHead(nn.Module):
    """Logits of tokens, by their embeddings: a layer with GELU and normalisation before these, a bias behind."""

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.layer, self.normalise = nn.Linear(size, size), nn.LayerNorm(size)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(
        self, states: Float[Tensor, "batch places size"], words: Float[Tensor, "vocabulary size"]
    ) -> Float[Tensor, "batch places vocabulary"]:
        """Logits of all tokens."""
        return F.linear(self.normalise(F.gelu(self.layer(states))), words, self.bias)


def same_as_asked(tokens: Int[Tensor, "rows time"], types: Int[Tensor, "rows time"]) -> Bool[Tensor, "rows time"]:
    """Mark a passage's tokens that its question has too; not the end, which both have."""
    asked = torch.where(types == 0, tokens, -1)
    same = (tokens[:, :, None] == asked[:, None]).any(-1) & (types == 1)
    return same & types.roll(-1, -1).bool()
