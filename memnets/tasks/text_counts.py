"""A language model that only counts: bigrams with Witten-Bell smoothing (Witten & Bell 1991, method C)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class Bigrams(NamedTuple):
    """How often each token, and each pair of tokens, is in a text.

    Attributes:
        unigram: p(w) = (c(w) + 1) / (N + V).
        pairs: c(v, w), sparse, `[vocab vocab]`.
    """

    unigram: Float[Tensor, " vocab"]
    pairs: Tensor

    def log_probabilities(self, previous: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape vocab"]:
        """log p(w | v) = log (c(v, w) + T(v) p(w)) / (c(v) + T(v)), where T(v) counts the different words after v."""
        different, where = previous.unique(return_inverse=True)
        counts = self.pairs.index_select(0, different).to_dense()
        followers = (counts > 0).sum(-1, keepdim=True).clamp(min=1)
        smoothed = (counts + followers * self.unigram) / (counts.sum(-1, keepdim=True) + followers)
        return smoothed.log()[where]


def count_bigrams(text: Shaped[Tensor, " tokens"], num_tokens: int) -> Bigrams:
    """Count a text of ids below `num_tokens`."""
    ids = text.long()
    unigram = (ids.bincount(minlength=num_tokens) + 1).float() / (len(ids) + num_tokens)
    pairs = torch.stack([ids[:-1], ids[1:]])
    ones, size = torch.ones(pairs.shape[1]), (num_tokens, num_tokens)
    return Bigrams(unigram, torch.sparse_coo_tensor(pairs, ones, size, check_invariants=True).coalesce())
