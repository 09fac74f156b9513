"""How well a relevance finds what answers a query: recall@k, reciprocal rank, nDCG, each query's own number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gold_ranks(
    scores: Float[Tensor, "queries rows"], gold: Bool[Tensor, "queries rows"]
) -> list[Int[Tensor, " found"]]:
    """Return the ranks of each query's gold rows, from 1, best first.

    Among equal scores a gold row comes after all others: a relevance that can't tell rows apart gains nothing by it. A
    row that scores -inf can't be read, and has no rank.

    Raises:
        ValueError: a query has no gold row, or a score is no number.
    """
    if scores.isnan().any():
        raise ValueError("a score is no number: the encoder or the relevance that made it overflows")
    if not gold.any(1).all():
        raise ValueError(f"query {int((~gold.any(1)).nonzero()[0])} has no gold row")
    return [_ranks(own, wanted) for own, wanted in zip(scores, gold, strict=True)]


def _ranks(scores: Tensor, gold: Tensor) -> Tensor:
    found = scores[gold & (scores > -torch.inf)].sort(descending=True).values
    others = (scores[~gold] >= found[:, None]).sum(1)
    return others + torch.arange(1, len(found) + 1)


def recall_at(ranks: Sequence[Tensor], k: int) -> Float[Tensor, " queries"]:
    """1 where a gold row is among the k best, else 0: `R@k` where one row answers, success@k where several do."""
    return torch.tensor([float((own <= k).any()) for own in ranks])


def reciprocal_rank(ranks: Sequence[Tensor]) -> Float[Tensor, " queries"]:
    """1 / rank of the best gold row; its mean is the MRR. 0 where none can be read."""
    return torch.tensor([1 / float(own[0]) if len(own) else 0.0 for own in ranks])


def ndcg_at(ranks: Sequence[Tensor], counts: Sequence[int], k: int) -> Float[Tensor, " queries"]:
    """Σ 1 / log2(1 + rank) of gold rows among the k best, against the best order (Järvelin, Kekäläinen 2002).

    `counts` says how many gold rows each query has: those that can't be read count against it.
    """
    return torch.tensor([_gain(own[own <= k]) / _gain(torch.arange(1, min(count, k) + 1)) for own, count in zip(
        ranks, counts, strict=True)])  # fmt: skip


def _gain(ranks: Tensor) -> float:
    return float((1 / torch.log2(1 + ranks.double())).sum())


def retrieval_metrics(ranks: Sequence[Tensor]) -> dict[str, Float[Tensor, " queries"]]:
    """Return recall at 1, 5 and 20, reciprocal rank and nDCG at 10 of queries that one row answers, each its own."""
    recalls = {f"recall_{k}": recall_at(ranks, k) for k in (1, 5, 20)}
    return recalls | {"mrr": reciprocal_rank(ranks), "ndcg_10": ndcg_at(ranks, [1] * len(ranks), 10)}
