"""The nearest of millions of keys, nearly always, by an inverted file that compares a query with few of them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

try:
    import faiss
except ImportError as error:
    raise ImportError("approximate search needs FAISS: install memnets[faiss]") from error


class ApproximateNearest:
    """As `nearest`, of keys that stay the same; what lies in cells that aren't looked into is missed.

    Keys are sorted into √entries cells (FAISS's `IndexIVFFlat`, Johnson et al. 2017, arXiv:1702.08734), and a query is
    compared with those in the `num_probes` cells nearest to it. Distances are exact. On the CPU.

    Args:
        keys: what is sought among; the index holds a copy.
        num_probes: cells that a query looks into: more find more, and take longer.

    Raises:
        ValueError: num_probes is not positive.
    """

    def __init__(self, keys: Float[Tensor, "entries hidden"], num_probes: int = 32) -> None:
        if num_probes < 1:
            raise ValueError(f"ApproximateNearest.num_probes must be positive, not {num_probes}")
        self.num_entries, num_cells = len(keys), max(math.isqrt(len(keys)), 1)
        faiss.omp_set_num_threads(torch.get_num_threads())
        self._index = cast(Any, faiss).index_factory(keys.shape[1], f"IVF{num_cells},Flat", faiss.METRIC_L2)
        self._index.nprobe = num_probes
        self._index.cp.min_points_per_centroid = 1  # few keys are no mistake
        held = keys.detach().float().cpu().contiguous().numpy()
        self._index.train(held)
        self._index.add(held)

    def __call__(
        self, queries: Float[Tensor, "queries hidden"], k: int
    ) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
        """Squared Euclidean distances and places of the k nearest keys found, nearest first.

        Where cells hold fewer than k, distances are infinite and places 0.

        Raises:
            ValueError: k is not between 1 and the number of keys.
        """
        if not 1 <= k <= self.num_entries:
            raise ValueError(f"the nearest of {self.num_entries} keys: k must be between 1 and their number, not {k}")
        faiss.omp_set_num_threads(torch.get_num_threads())
        asked = queries.detach().float().cpu().contiguous().numpy()
        distances, places = map(torch.from_numpy, self._index.search(asked, k))
        distances = distances.masked_fill(places < 0, math.inf).to(queries)
        return distances, places.clamp_min(0).to(queries.device)
