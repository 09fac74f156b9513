"""Networks that read joined texts in both directions: one pretrained, of BERT's family, and a small one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memnets.retrieval.pretrained_encoder import find_folder, load


class TextEncoder(nn.Module, ABC):
    """From token embeddings to states that have seen the whole sequence.

    Attributes:
        size: width of embeddings and states.
        words: the embeddings of tokens, `words.weight [vocabulary size]`.
    """

    size: int
    words: nn.Embedding

    @abstractmethod
    def forward(
        self,
        embedded: Float[Tensor, "rows time size"],
        tokens: Int[Tensor, "rows time"],
        types: Int[Tensor, "rows time"],
    ) -> Float[Tensor, "rows time size"]:
        """States of a sequence whose tokens were embedded; those that are 0 are seen by no other."""


class SmallTextEncoder(TextEncoder):
    """A Transformer encoder from scratch (Vaswani et al. 2017), layers normalised first.

    Args:
        vocabulary_size: tokens there are.
        d_model: width.
        num_layers: layers.
        num_heads: heads of a layer.
        max_tokens: places that have a position.

    Raises:
        ValueError: heads that don't divide the width.
    """

    def __init__(
        self, vocabulary_size: int, d_model: int = 64, num_layers: int = 2, num_heads: int = 4, max_tokens: int = 512
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"SmallTextEncoder.num_heads={num_heads} must divide d_model={d_model}")
        self.size = d_model
        self.words = nn.Embedding(vocabulary_size, d_model)
        self.positions, self.types = nn.Embedding(max_tokens, d_model), nn.Embedding(2, d_model)
        layer = nn.TransformerEncoderLayer(
            d_model, num_heads, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)

    def forward(
        self,
        embedded: Float[Tensor, "rows time size"],
        tokens: Int[Tensor, "rows time"],
        types: Int[Tensor, "rows time"],
    ) -> Float[Tensor, "rows time size"]:
        """States of a sequence.

        Raises:
            ValueError: it is longer than there are positions.
        """
        time = _time(tokens, self.positions.num_embeddings)
        embedded = embedded + self.positions.weight[:time] + self.types(types)
        states: Tensor = self.layers(embedded, src_key_padding_mask=_hidden(tokens, embedded.dtype))
        return states


class PretrainedTextEncoder(TextEncoder):
    """A network of BERT's family with the weights of a folder, which training goes on from.

    Args:
        vocabulary_size: tokens that the task's tokenizer knows: that of the same folder.
        name: a folder, one below `encoders` of the data root (MEMNETS_DATA), or a name of the hub.
        frozen_layers: layers, from the first, that stay as they are.
        freeze_embeddings: embeddings of tokens, positions and types stay as they are.

    Raises:
        EncoderError: the package `transformers`, or a file, is missing or of no use.
        ValueError: the tokenizer is another one's, or there are fewer layers.
    """

    def __init__(
        self,
        vocabulary_size: int,
        name: str = "sentence-transformers/all-MiniLM-L6-v2",
        frozen_layers: int = 0,
        freeze_embeddings: bool = True,
    ) -> None:
        super().__init__()
        _, network = load(find_folder(name), torch.float32)
        known, layers = network.config.vocab_size, network.encoder.layer
        if known != vocabulary_size:
            raise ValueError(
                f"{name} has {known} tokens, but the task's tokenizer {vocabulary_size}: give both the same folder "
                f"(task.tokenizer and model.encoder)"
            )
        if not 0 <= frozen_layers <= len(layers):
            raise ValueError(f"{name} has {len(layers)} layers; frozen_layers can't be {frozen_layers}")
        network.pooler = None
        self.size, self.network, self.words = (
            int(network.config.hidden_size),
            network,
            network.embeddings.word_embeddings,
        )
        network.requires_grad_(True)
        network.embeddings.requires_grad_(not freeze_embeddings)
        layers[:frozen_layers].requires_grad_(False)

    def forward(
        self,
        embedded: Float[Tensor, "rows time size"],
        tokens: Int[Tensor, "rows time"],
        types: Int[Tensor, "rows time"],
    ) -> Float[Tensor, "rows time size"]:
        """States of a sequence.

        Raises:
            ValueError: it is longer than there are positions.
        """
        _time(tokens, self.network.config.max_position_embeddings)
        read = self.network(inputs_embeds=embedded, token_type_ids=types, attention_mask=(tokens != 0).long())
        states: Tensor = read.last_hidden_state
        return states


def _time(tokens: Tensor, most: int) -> int:
    if tokens.shape[1] > most:
        raise ValueError(f"a sequence of {tokens.shape[1]} tokens, but the encoder has {most} positions: read less")
    return tokens.shape[1]


def _hidden(tokens: Tensor, dtype: torch.dtype) -> Any:
    """Padding, as an addition to scores: finite, so that a row of nothing but padding has finite states."""
    return torch.zeros(tokens.shape, dtype=dtype, device=tokens.device).masked_fill(tokens == 0, -1e4)
