"""How well passages are found, as records: what `scripts/retrieval.py` measures, its CSV, its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memnets.analysis.measured import Measured, origins
from memnets.analysis.tables import plain

RETRIEVALS = "retrieval.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class RetrievalRecord(Measured):
    """One relevance over one corpus: the fields are the CSV's columns. `_low` and `_high` bound a 95 % interval.

    Attributes:
        encoder: what texts were encoded with; empty where only words count.
        entries: passages in the memory.
        recall_1: share of the queries whose passage comes first; so 5 and 20.
        mrr: mean of 1 / rank of the passage.
        ndcg_10: mean of 1 / log2(1 + rank) where the rank is at most 10, else 0.
        ms_per_query: time to score all passages for a query, in batches, without encoding it.
    """

    corpus: str
    relevance: str
    encoder: str
    entries: int
    queries: int
    recall_1: float
    recall_1_low: float
    recall_1_high: float
    recall_5: float
    recall_5_low: float
    recall_5_high: float
    recall_20: float
    mrr: float
    mrr_low: float
    mrr_high: float
    ndcg_10: float
    ms_per_query: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.corpus, self.relevance, self.encoder


def render_retrievals(records: Sequence[RetrievalRecord]) -> str:
    """Return the records in Markdown, intervals in brackets, and the commands that made them."""
    head = ["corpus", "relevance", "encoder", "R@1", "R@5", "R@20", "MRR", "nDCG@10", "ms per query"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(head) - 3)]
    for each in records:
        within = [_within(each, name) for name in ("recall_1", "recall_5")]
        numbers = [*within, f"{each.recall_20:.3f}", _within(each, "mrr"), f"{each.ndcg_10:.3f}"]
        row = [each.corpus, each.relevance, each.encoder, *numbers, plain(float(f"{each.ms_per_query:.2g}"))]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *origins(records)])


def _within(record: RetrievalRecord, name: str) -> str:
    mean, low, high = (getattr(record, f"{name}{end}") for end in ("", "_low", "_high"))
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"
