"""What an exact search costs: the kernel against all scores and their best, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memnets.analysis.searches import SearchRecord
from memnets.benchmark.timing import in_turns, threads
from memnets.ops.backend import use_backend
from memnets.ops.topk_address import topk_address

QUERIES, WORD, TOP_K = 512, 64, 32
"""A segment's queries of one head."""
MOST_SCORES = 2**27
"""What all scores at once may be: half a gigabyte."""


def measure_search(keys: int, num_threads: int, seconds: float, made_by: Mapping[str, Any]) -> SearchRecord:
    """Time a search among so many keys; independent normal numbers, where a screen can leave out least."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, QUERIES, WORD, generator=generator)
    held = torch.randn(1, 1, keys, WORD, generator=generator)
    stamps, newest = torch.arange(keys)[None], torch.full((1, QUERIES), keys - 1)

    top_k = min(TOP_K, keys)

    def kernel_search() -> None:
        topk_address(query, held, stamps, torch.zeros_like(newest), newest, top_k)

    def all_scores() -> None:
        (query @ held.mT).topk(top_k)

    turns = {"kernel": kernel_search} | ({"reference": all_scores} if keys * QUERIES <= MOST_SCORES else {})
    with threads(num_threads), use_backend("cpu"), torch.no_grad():
        times = in_turns(turns, seconds, "cpu")
    kernel = times["kernel"].best
    reference = times["reference"].best if "reference" in times else None
    return SearchRecord(
        keys=keys,
        queries=QUERIES,
        word=WORD,
        top_k=top_k,
        threads=num_threads,
        kernel_ms=1e3 * kernel,
        reference_ms=None if reference is None else 1e3 * reference,
        ratio=None if reference is None else reference / kernel,
        keys_per_us=1e-6 * keys * QUERIES / kernel,
        **made_by,
    )
