"""How well each slot of a memory answers a query, and the weights that follow: dot, scaled dot, additive."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.ops.content_address import content_address


class AttentionScore(nn.Module, ABC):
    """Weights over slots from a query and a key per slot. What a paper calls score is one subclass's `score`."""

    @abstractmethod
    def score(
        self, query: Float[Tensor, "*rows embedding"], keys: Float[Tensor, "*#rows slots embedding"]
    ) -> Float[Tensor, "*rows slots"]:
        """One number per slot, before any softmax."""

    def forward(
        self,
        query: Float[Tensor, "batch embedding"],
        keys: Float[Tensor, "batch slots embedding"],
        told: Bool[Tensor, "batch slots"],
    ) -> Float[Tensor, "batch slots"]:
        """p_i = exp(s_i) / Σ_j exp(s_j) over the slots that are `told`; 0 for the others, for all if none is."""
        scores = self.score(query, keys)
        return torch.softmax(scores.masked_fill(~told, torch.finfo(scores.dtype).min), dim=-1) * told

    def linear(
        self,
        query: Float[Tensor, "batch embedding"],
        keys: Float[Tensor, "batch slots embedding"],
        told: Bool[Tensor, "batch slots"],
    ) -> Float[Tensor, "batch slots"]:
        """p_i = s_i, without the softmax, over the slots that are `told`; 0 for the others."""
        return self.score(query, keys).masked_fill(~told, 0)


class DotScore(AttentionScore):
    """s_i = uᵀ m_i (Memory Networks, arXiv:1503.08895, equation 1). Its weights come from the op `content_address`.

    Args:
        embedding_size: width of query and keys.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.scale = 1.0

    def score(
        self, query: Float[Tensor, "*rows embedding"], keys: Float[Tensor, "*#rows slots embedding"]
    ) -> Float[Tensor, "*rows slots"]:
        """The product, scaled."""
        return self.scale * torch.einsum("...w,...nw->...n", query, keys)

    def forward(
        self,
        query: Float[Tensor, "batch embedding"],
        keys: Float[Tensor, "batch slots embedding"],
        told: Bool[Tensor, "batch slots"],
    ) -> Float[Tensor, "batch slots"]:
        """Softmax of the scores over the slots told, by the op: the scale is its strength."""
        strength = torch.full_like(query[:, :1], self.scale)
        return content_address(keys, query[:, None], strength, told, similarity="dot").squeeze(1)


class ScaledDotScore(DotScore):
    """s_i = uᵀ m_i / √d (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__(embedding_size)
        self.scale = embedding_size**-0.5


class AdditiveScore(AttentionScore):
    """s_i = vᵀ tanh(W u + U m_i), learned (Bahdanau, Cho & Bengio 2014, arXiv:1409.0473, section A.1.2).

    Args:
        embedding_size: width of query and keys.
        hidden_size: length of v; null makes it that width.
    """

    def __init__(self, embedding_size: int, hidden_size: int | None = None) -> None:
        super().__init__()
        size = embedding_size if hidden_size is None else hidden_size
        self.query = nn.Linear(embedding_size, size, bias=False)
        self.key = nn.Linear(embedding_size, size, bias=False)
        self.combine = nn.Linear(size, 1, bias=False)

    def score(
        self, query: Float[Tensor, "*rows embedding"], keys: Float[Tensor, "*#rows slots embedding"]
    ) -> Float[Tensor, "*rows slots"]:
        """The scores."""
        return self.combine(torch.tanh(self.query(query)[..., None, :] + self.key(keys))).squeeze(-1)
