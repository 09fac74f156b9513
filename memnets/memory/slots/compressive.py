"""Compressive memory: linear attention to all that left the window (Infini-attention, arXiv:2404.07143)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import LayerMemory, Reading, Sizes, Window, unit_length
from memnets.memory.slots.fast_weight import matrix_norm, num_idle, read_and_write


class CompressiveState(NamedTuple):
    """The matrices, and the sums of all keys written to them."""

    memory: Float[Tensor, "batch groups word value"]
    keys: Float[Tensor, "batch groups word"]


class CompressiveMemory(LayerMemory):
    """A matrix M per key head with the sum z of its keys, written with the paper's delta rule (equations 3 and 5).

    With κ = elu(s k) + 1 of the entry that leaves the window, z ← z + κ and then M ← M + κ (v - Mᵀκ / (κ·z))ᵀ; a query
    reads Mᵀκ(q) / (κ(q)·z), and 0 where nothing was written yet. Keys and queries are the layer's, of length 1 and
    without rotation, times s, learned for each head and √head_size at first: components then vary as much as normal
    ones do, where short vectors would all have about the same κ.

    The paper writes a segment at once, by what z was before it. Here entries are written one by one as they leave, so
    that results don't depend on how a text is cut, and z counts the entry itself: as all of κ is positive, κ·z >= |κ|²
    then, and no key can make M blow up (by the z before, a first key could: it is 0). What isn't finite in a key or a
    value stays in its row's memory until `reset`.
    """

    reads: ClassVar[Literal["key-values", "vectors"]] = "vectors"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((sizes.num_key_heads, 1, 1), 0.5 * math.log(sizes.head_size)))
        self.register_buffer("empty", torch.zeros(sizes.num_key_heads, sizes.head_size, sizes.head_size), False)

    def initial_state(self, batch_size: int) -> CompressiveState:
        """Zeros."""
        empty = self.get_buffer("empty").expand(batch_size, -1, -1, -1)
        return CompressiveState(empty, empty[..., 0])

    def forward(
        self, window: Window, state: CompressiveState
    ) -> tuple[Float[Tensor, "batch heads time word"], CompressiveState]:
        """Read for every query what was written before, then write what leaves the window with it."""
        keys, values, positions = window.leaving()
        real = (positions >= 0)[:, None, :, None].to(state.memory.dtype)
        scale, heads_share = self.log_scale.exp(), window.query.shape[1] // keys.shape[1]
        query = positive(unit_length(window.query) * scale.repeat_interleave(heads_share, dim=0))
        keys = positive(keys * scale) * real
        sums = state.keys[:, :, None] + keys.cumsum(2)
        # An entry that is none has a key of zeros, under which nothing is written or goes.
        erase = 1 / positive_or_one((keys * sums).sum(-1))
        read, memory = read_and_write(query, keys, values, erase, None, state.memory, num_idle(window))
        before = (sums - keys).repeat_interleave(heads_share, dim=1)
        read = read / positive_or_one((query * before).sum(-1, keepdim=True))
        return read, CompressiveState(memory, sums[:, :, -1])

    def gauge(self, reading: Reading, state: CompressiveState) -> dict[str, Ratio]:
        """`norm`: of a head's matrix."""
        return {"norm": matrix_norm(state.memory)}


def positive(vectors: Float[Tensor, "*rows word"]) -> Float[Tensor, "*rows word"]:
    """elu(x) + 1 > 0."""
    return F.elu(vectors) + 1


def positive_or_one(divisors: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Divisors that are sums of what is positive, with 1 for those of nothing."""
    return torch.where(divisors > 0, divisors, 1.0)
