"""Fast weights: a matrix per head that what leaves the window corrects (Schlag et al. 2021, arXiv:2102.11174)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import LayerMemory, Reading, Sizes, Window, unit_length
from memnets.ops.delta_rule import delta_rule

FIRST_DECAY = 0.01
"""Share of everything that an entry takes with it at first: half of what is written lasts for 69 more entries."""


class DeltaState(NamedTuple):
    """The matrices, and for what is worth watching: entries that were written, and sums over them.

    Attributes:
        memory: from keys to values.
        entries: written so far.
        written: sum over entries of the share by which what a key held was replaced.
        kept: sum over entries of the share of everything that was kept.
    """

    memory: Float[Tensor, "batch groups word value"]
    entries: Int[Tensor, " batch"]
    written: Float[Tensor, "batch groups"]
    kept: Float[Tensor, "batch groups"]


class DeltaMemory(LayerMemory):
    """A matrix M per key head: each entry that leaves the window replaces a share of what M holds under its key.

    M ← a (M - beta k (Mᵀk)ᵀ) + beta k vᵀ, read as Mᵀq, with the layer's keys and queries, both of length 1 and without
    rotation: with beta = 1 a query that equals the key reads the value, unless a key like it came later. Nothing is
    normalised: what is read has the values' scale. Every head decides by its entry alone how much it writes, beta =
    sigmoid(w · [k; v] + c), at first 1/2. The state's size doesn't depend on how much was read; more keys than a head
    is wide get in one another's way.

    Keys of length 0 write nothing. Whatever the keys, |M|² grows by no more than beta |v|² an entry, and with keys of
    no particular direction it settles. What isn't finite in a key or a value stays in its row's memory until `reset`.

    Args:
        sizes: of the layer.
        gated: entries also let all of M decay, a = sigmoid(w' · [k; v] + c'), at first 0.99 (Yang, Kautz & Hatamizadeh
            2024, arXiv:2412.06464). Else a = 1.
    """

    reads: ClassVar[Literal["key-values", "vectors"]] = "vectors"

    def __init__(self, sizes: Sizes, gated: bool = False) -> None:
        super().__init__()
        self.share = EntryGate(sizes, first=0.5)
        self.keep = EntryGate(sizes, first=1 - FIRST_DECAY) if gated else None
        self.register_buffer("empty", torch.zeros(sizes.num_key_heads, sizes.head_size, sizes.head_size), False)

    def initial_state(self, batch_size: int) -> DeltaState:
        """Matrices of zeros."""
        empty = self.get_buffer("empty").expand(batch_size, -1, -1, -1)
        nothing = empty[:, :, 0, 0]
        return DeltaState(empty, torch.zeros(batch_size, dtype=torch.long, device=empty.device), nothing, nothing)

    def forward(self, window: Window, state: DeltaState) -> tuple[Float[Tensor, "batch heads time word"], DeltaState]:
        """Read for every query what was written before, then write what leaves the window with it."""
        keys, values, positions = window.leaving()
        real = (positions >= 0)[:, None].to(state.memory.dtype)
        share = self.share(keys, values).sigmoid() * real
        # Of what is no entry nothing is written; it decays nothing either, as all of these come before a row's entries.
        decay = None if self.keep is None else F.logsigmoid(self.keep(keys, values))
        query, idle = unit_length(window.query), num_idle(window)
        read, memory = read_and_write(query, keys, share[..., None] * values, share, decay, state.memory, idle)
        kept = real.expand_as(share) if decay is None else decay.detach().exp() * real
        return read, DeltaState(
            memory,
            state.entries + (positions >= 0).sum(1),
            state.written + share.detach().sum(-1),
            state.kept + kept.sum(-1),
        )

    def gauge(self, reading: Reading, state: DeltaState) -> dict[str, Ratio]:
        """`norm`: of a head's matrix. `written`, `kept`: mean beta and a of the entries since the row's beginning."""
        entries = state.entries.double().sum() * state.written.shape[1]
        found = {
            "norm": matrix_norm(state.memory),
            "written": Ratio(state.written.double().sum(), entries),
            "kept": Ratio(state.kept.double().sum(), entries),
        }
        return found if self.keep is not None else {name: found[name] for name in ("norm", "written")}


class EntryGate(nn.Module):
    """w · [k; v] + c for every head: what an entry says of itself, when it leaves the window as well as before."""

    def __init__(self, sizes: Sizes, first: float) -> None:
        super().__init__()
        shape = (sizes.num_key_heads, sizes.head_size)
        self.key, self.value = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.full((sizes.num_key_heads, 1), math.log(first / (1 - first))))

    def forward(
        self, keys: Float[Tensor, "batch groups time word"], values: Float[Tensor, "batch groups time word"]
    ) -> Float[Tensor, "batch groups time"]:
        """Logits."""
        return (keys * self.key[:, None] + values * self.value[:, None]).sum(-1) + self.bias


def num_idle(window: Window) -> int:
    """Queries of a chunk with which nothing leaves the window in any row, as every row begins with the chunk."""
    return min(window.size - 1 - window.before, window.query.shape[2])


def read_and_write(
    query: Float[Tensor, "batch heads time word"],
    key: Float[Tensor, "batch groups time word"],
    add: Float[Tensor, "batch groups time value"],
    erase: Float[Tensor, "batch groups time"],
    decay: Float[Tensor, "batch groups time"] | None,
    memory: Float[Tensor, "batch groups word value"],
    idle: int,
) -> tuple[Float[Tensor, "batch heads time value"], Float[Tensor, "batch groups word value"]]:
    """`delta_rule`, told that the first `idle` steps write nothing: they cost one product."""
    if not idle:
        return delta_rule(query, key, add, erase, decay, memory)
    held = memory.repeat_interleave(query.shape[1] // memory.shape[1], dim=1)
    before = query[:, :, :idle] @ held
    if idle == query.shape[2]:
        return before, memory
    query, key, add, erase = (part[:, :, idle:] for part in (query, key, add, erase))
    read, memory = delta_rule(query, key, add, erase, None if decay is None else decay[:, :, idle:], memory)
    return torch.cat([before, read], dim=2), memory


def matrix_norm(memory: Float[Tensor, "batch groups word value"]) -> Ratio:
    """Frobenius norm, the mean over heads and rows."""
    norms = memory.detach().double().norm(dim=(2, 3))
    return Ratio(norms.sum(), torch.tensor(float(norms.numel()), dtype=torch.float64, device=norms.device))
