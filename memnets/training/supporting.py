"""Does a model look at the facts that support its answers, were these given it? For tasks that tell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memnets.contracts import Batch, Ratio, Story
from memnets.models.base import SequenceModel


def supporting_facts(model: SequenceModel, batch: Batch) -> dict[str, Ratio]:
    """Shares, between 0 and 1, of what is found by `attention`; nothing where model or task don't tell."""
    return {} if batch.supports is None else facts_found(model.attention(batch.inputs), batch)


def facts_found(weights: Float[Tensor, "batch hops items"] | None, batch: Batch) -> dict[str, Ratio]:
    """Shares, between 0 and 1, of what is found by these weights; nothing where the task doesn't tell.

    Of what was retrieved for a question `retrieved_facts` tells; of a story:

    A hop points at the one sentence to which it gives its largest weight (of equal ones the oldest). A true supporting
    fact is found if some hop points at it. Facts that the memory has no room for count nowhere.

    - `supporting_recall`: among all true facts of all questions, the share that is found.
    - `supporting_complete`: among the questions that have true facts, the share for which every one is found.

    K hops find at most K facts: one with more of them is never complete.
    """
    if batch.supports is None:
        return {}
    if not isinstance(batch.inputs, Story):
        return retrieved_facts(weights, batch.supports)
    if weights is None:
        return {}
    true = batch.supports
    found = pointed_at(weights, (batch.inputs.story != 0).any(-1)) & true
    asked = true.any(-1)
    complete = (found == true).all(-1) & asked
    return {"supporting_recall": _ratio(found, true), "supporting_complete": _ratio(complete, asked)}


def retrieved_facts(
    weights: Float[Tensor, "batch hops items"] | None, supports: Bool[Tensor, "batch items"]
) -> dict[str, Ratio]:
    """Shares, between 0 and 1, of what was there to be read and of what was looked at.

    - `recall`: of the questions, those for which a true supporting fact was retrieved at all (recall@k of k entries).
    - `attention_on_gold`: of a model's attention, what lies on true facts; the mean over hops and questions, 0 for a
      question whose fact isn't there. Nothing of a model that shows none.
    """
    found = {"recall": _ratio(supports.any(-1), torch.ones_like(supports[:, 0]))}
    if weights is None:
        return found
    on_gold = (weights * supports[:, None]).sum(-1).double()
    return found | {"attention_on_gold": Ratio(on_gold.sum(), torch.ones_like(on_gold).sum())}


def pointed_at(
    weights: Float[Tensor, "batch hops sentences"], told: Bool[Tensor, "batch sentences"]
) -> Bool[Tensor, "batch sentences"]:
    """Mark the sentences, among those told, to which some hop gives its largest weight."""
    largest = weights.masked_fill(~told[:, None], -torch.inf).argmax(-1)
    return torch.zeros_like(told).scatter(1, largest, True) & told


def _ratio(part: Bool[Tensor, "*shape"], whole: Bool[Tensor, "*shape"]) -> Ratio:
    return Ratio(part.sum().double(), whole.sum().double())
