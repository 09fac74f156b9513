"""How fast texts are encoded, as records: what `scripts/encoding_speed.py` measures, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memnets.analysis.measured import Measured, origins
from memnets.analysis.tables import plain

ENCODING_SPEEDS = "encoding_speed.csv"
"""The table of a folder of results that holds these records."""


@dataclass(frozen=True)
class EncodingRecord(Measured):
    """One way to encode the same texts, timed in turns with the others: the fields are the CSV's columns.

    Attributes:
        way: `bfloat16 sorted`: the precision, and whether texts of like length are encoded together.
        tokens: of all texts, padding not counted.
        padding: share of what the network computes that is padding.
        seconds: the best of all turns, tokenizing included.
        gflops: arithmetic of the tokens, without padding's, per second.
        peak_gflops: what a product of large square matrices reaches in the same precision, in turns with the others.
    """

    encoder: str
    way: str
    texts: int
    tokens: int
    padding: float
    seconds: float
    texts_per_second: float
    tokens_per_second: float
    gflops: float
    peak_gflops: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What one table holds once."""
        return self.encoder, self.way, self.texts, self.threads, self.device


def render_encodings(records: Sequence[EncodingRecord]) -> str:
    """Return the records as a Markdown table, and below it the commands that made them."""
    head = "| encoder | way | texts | tokens | padding | texts/s | tokens/s | GFLOP/s | product's GFLOP/s | share |"
    lines = [head, "|---|---|" + "---:|" * 8]
    for one in records:
        numbers = (one.texts, one.tokens, one.padding, one.texts_per_second, one.tokens_per_second)
        rates = (one.gflops, one.peak_gflops, one.gflops / one.peak_gflops)
        cells = " | ".join(plain(number) for number in (*numbers, *rates))
        lines.append(f"| {one.encoder} | {one.way} | {cells} |")
    return "\n".join([*lines, "", *origins(records)])
