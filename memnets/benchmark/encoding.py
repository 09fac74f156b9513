"""How fast a pretrained encoder reads texts: in float32 and bfloat16, sorted by length and as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from memnets.analysis.encoding_speeds import EncodingRecord
from memnets.benchmark.timing import Run, in_turns, product, product_flops, threads
from memnets.retrieval.pretrained_encoder import PretrainedEncoder

MAX_TOKENS = 256
"""Of a text: as passages of SQuAD are encoded for search."""

BFLOAT16 = {"float32": False, "bfloat16": True}


class UnsortedEncoder(PretrainedEncoder):
    """What sorting is measured against: texts in their own order, each batch padded to its longest."""

    def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
        for start in range(0, len(ids), self.batch_size):
            yield list(range(len(ids)))[start : start + self.batch_size]


def encoders(name: str) -> dict[str, PretrainedEncoder]:
    """Return what is compared, by way."""
    return {
        "float32 unsorted": UnsortedEncoder(name, MAX_TOKENS),
        "float32 sorted": PretrainedEncoder(name, MAX_TOKENS),
        "bfloat16 sorted": PretrainedEncoder(name, MAX_TOKENS, bfloat16=True),
    }


def measure_encoding(
    name: str, texts: Sequence[str], seconds: float, num_threads: int, made_by: Mapping[str, Any]
) -> list[EncodingRecord]:
    """Encode the texts in each way, in turns with one another and with products of matrices, for so many seconds.

    Each is called three times at least.

    Raises:
        EncoderError: the package `transformers`, or a file, is missing or of no use.
    """
    ways = encoders(name)
    lengths = {way: padded_lengths(encoder, texts) for way, encoder in ways.items()}
    peaks = {precision: product("cpu", getattr(torch, precision)) for precision in BFLOAT16}
    with threads(num_threads):
        calls: dict[str, Run] = {way: partial(_encode, encoder, texts) for way, encoder in ways.items()}
        times = in_turns(peaks | calls, seconds, "cpu")
    records = []
    for way, encoder in ways.items():
        own, padded = zip(*lengths[way], strict=True)
        best = times[way].best
        rates = {
            "texts_per_second": len(texts) / best,
            "tokens_per_second": sum(own) / best,
            "gflops": sum(flops(encoder, length) for length in own) / best / 1e9,
            "peak_gflops": product_flops("cpu") / times[way.split()[0]].best / 1e9,
        }
        told = {"encoder": Path(name).name, "way": way, "texts": len(texts), "tokens": sum(own), "seconds": best}
        padding = 1 - sum(own) / sum(padded)
        records.append(EncodingRecord(**told, padding=padding, **rates, threads=num_threads, **made_by))
    return records


def _encode(encoder: PretrainedEncoder, texts: Sequence[str]) -> None:
    encoder.encode(texts)


def padded_lengths(encoder: PretrainedEncoder, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return each text's tokens, and with the padding of its batch."""
    ids = encoder._tokens(texts)
    batches = [[len(ids[row]) for row in rows] for rows in encoder._batches(ids)]
    return [(length, max(batch)) for batch in batches for length in batch]


def flops(encoder: PretrainedEncoder, length: int) -> float:
    """Return the floating-point operations of a text: multiplications and additions of the layers' matrices.

    Per layer: four projections of d × d and two of d × feed-forward for every token, and its scores and sums over all.
    """
    sizes = encoder._loaded[1].config
    width, inner = sizes.hidden_size, sizes.intermediate_size
    per_token = 8 * width**2 + 4 * width * inner + 4 * length * width
    return float(sizes.num_hidden_layers * length * per_token)
