"""Fast weights: a matrix that every step corrects where its key points, read by every query (arXiv:2102.11174)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from memnets.ops.sequence import in_one_precision


def delta_rule(
    query: Float[Tensor, "batch heads time word"],
    key: Float[Tensor, "batch groups time word"],
    add: Float[Tensor, "batch groups time value"],
    erase: Float[Tensor, "batch groups time"],
    decay: Float[Tensor, "batch groups time"] | None,
    memory: Float[Tensor, "batch groups word value"],
    chunk_size: int = 32,
) -> tuple[Float[Tensor, "batch heads time value"], Float[Tensor, "batch groups word value"]]:
    """What every query reads, each before its own step's write, and the memory after the last step.

    r_t = M_(t-1)ᵀ q_t, then M_t = a_t (I - erase_t k_t k_tᵀ) M_(t-1) + k_t add_tᵀ with a_t = exp(decay_t).

    With |k| = 1 and add = erase · v this is the delta rule: what the key held moves towards v by the share `erase`
    (Schlag, Irie & Schmidhuber 2021, arXiv:2102.11174); with decay, the gated delta rule (Yang, Kautz & Hatamizadeh
    2024, arXiv:2412.06464). No step enlarges what is held while 0 <= erase · |k|² <= 2.

    The steps of a chunk are written at once: step t adds k_t w_tᵀ, where w_t = add_t - erase_t a_t M_(t-1)ᵀ k_t, and M
    is what the chunk began with and these: a triangular system (Yang et al. 2024, arXiv:2406.06484). From chunk to
    chunk the memory is carried. Low precision is computed in float32. A number that isn't finite spoils what its row
    reads from its chunk on, and the row's memory; no other row.

    Args:
        query: heads are a multiple of the groups; neighbouring heads share a group's memory.
        key: of each step's write.
        add: what is written under it.
        erase: how much of what the key holds goes.
        decay: logarithm of what is kept of everything: 0 all of it, -inf nothing. None: 0.
        memory: before the first step.
        chunk_size: steps written at once; it changes nothing beyond rounding.

    Raises:
        ValueError: heads that are no multiple of the groups, no steps, or a chunk_size below 1.
    """
    _check(query, key)
    if chunk_size < 1:
        raise ValueError(f"delta_rule's chunk_size must be at least 1, not {chunk_size}")
    with torch.autocast(query.device.type, enabled=False):
        read, memory = in_one_precision(_by_chunks, (query, key, add, erase, decay, memory), chunk_size)
    return read, memory


def delta_rule_reference(
    query: Tensor, key: Tensor, add: Tensor, erase: Tensor, decay: Tensor | None, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """The same step by step."""
    _check(query, key)
    with torch.autocast(query.device.type, enabled=False):
        read, memory = in_one_precision(_by_steps, (query, key, add, erase, decay, memory))
    return read, memory


def _check(query: Tensor, key: Tensor) -> None:
    heads, groups, time = query.shape[1], key.shape[1], key.shape[2]
    if heads % groups:
        raise ValueError(f"delta_rule needs query heads in equal shares per key head, not {heads} for {groups}")
    if not time:
        raise ValueError("delta_rule needs at least one step, but there is none")


_Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]


def _by_steps(given: _Given) -> tuple[Tensor, Tensor]:
    (query, key, add, erase, decay, memory), reads = given, []
    query = rearrange(query, "b (g r) t w -> b g r t w", g=key.shape[1])
    for t in range(key.shape[2]):
        reads.append(torch.einsum("bgrw,bgwv->bgrv", query[:, :, :, t], memory))
        held = torch.einsum("bgw,bgwv->bgv", key[:, :, t], memory)
        memory = memory - torch.einsum("bg,bgw,bgv->bgwv", erase[:, :, t], key[:, :, t], held)
        if decay is not None:
            memory = decay[:, :, t, None, None].exp() * memory
        memory = memory + torch.einsum("bgw,bgv->bgwv", key[:, :, t], add[:, :, t])
    return rearrange(torch.stack(reads, dim=3), "b g r t v -> b (g r) t v"), memory


class _Kept(NamedTuple):
    """How much is kept within a chunk of what it began with, or wrote, as shares `[rows chunks ...]`.

    Attributes:
        start: of the memory before the chunk, after each step, `[... steps 1]`.
        steps: of what column s wrote, after step t, `[... steps steps]`; 0 for s > t.
    """

    start: Tensor
    steps: Tensor


def _by_chunks(given: _Given, chunk_size: int) -> tuple[Tensor, Tensor]:
    query, key, add, erase, decay, memory = given
    (batch, groups, time), size = erase.shape, min(chunk_size, erase.shape[2])
    # A step of zeros writes nothing and decays nothing.
    query, key, add = (_chunks(part, size) for part in (query, key, add))
    erase = _chunks(erase[..., None], size)
    kept = None if decay is None else _kept(_chunks(decay[..., None], size))
    query = rearrange(query, "b (g r) n c w -> (b g) n r c w", g=groups)
    key, add, erase = (rearrange(part, "b g n c w -> (b g) n c w") for part in (key, add, erase))
    befores, writes, after = _written(key, add, erase, kept, memory.flatten(0, 1))
    read = _read(query, key, kept, befores, writes)
    read = rearrange(read, "(b g) n r c v -> b (g r) (n c) v", b=batch)
    return read[:, :, :time], after.unflatten(0, (batch, groups))


def _chunks(steps: Tensor, size: int) -> Tensor:
    """`[b g t w]` to `[b g n c w]`, zeros behind the last step."""
    missing = -steps.shape[2] % size
    steps = F.pad(steps, (0, 0, 0, missing)) if missing else steps
    return steps.unflatten(2, (steps.shape[2] // size, size))


def _kept(decay: Tensor) -> _Kept:
    """Sums of logarithms over the steps between, never differences: -inf, too, is exact."""
    decay = decay.flatten(0, 1)
    size = decay.shape[-2]
    earlier = torch.ones(size, size, dtype=torch.bool, device=decay.device).triu(1)
    between = torch.where(earlier, decay.mT, 0.0).cumsum(-1).mT
    return _Kept(decay.cumsum(-2).exp(), between.exp().tril())


def _written(
    key: Tensor, add: Tensor, erase: Tensor, kept: _Kept | None, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The memory before every chunk `[rows chunks word value]`, w of every step, and the memory after the last.

    W = (I + A)⁻¹ (add - erase a_1..a_t K M_0), where A(t, s) = erase_t k_t · k_s a_(s+1)..a_t for s < t.
    """
    overlap, erase_start, last = erase * (key @ key.mT), erase, key
    if kept is not None:
        overlap, erase_start, last = overlap * kept.steps, erase * kept.start, kept.steps[..., -1, :, None] * key
    one = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device).expand_as(overlap)
    solved = torch.linalg.solve_triangular(overlap, one, upper=False, unitriangular=True)
    # By unbind, not by index: the gradient of an index is as large as the whole.
    alone, corrections = (solved @ add).unbind(1), ((solved * erase_start.mT) @ key).unbind(1)
    left = None if kept is None else kept.start[..., -1:, :].unbind(1)
    befores, writes = [], []
    for n, keys in enumerate(last.unbind(1)):
        befores.append(memory)
        writes.append(torch.baddbmm(alone[n], corrections[n], memory, alpha=-1))
        memory = memory if left is None else left[n] * memory
        memory = torch.baddbmm(memory, keys.mT, writes[-1])
    return torch.stack(befores, dim=1), torch.stack(writes, dim=1), memory


def _read(query: Tensor, key: Tensor, kept: _Kept | None, befores: Tensor, writes: Tensor) -> Tensor:
    """Query t sees the memory before its chunk, and what the chunk's steps before t wrote."""
    scores, held = query @ key.mT[:, :, None], query @ befores[:, :, None]
    if kept is None:
        return held + scores.tril(-1) @ writes[:, :, None]
    # As after step t - 1; before the first, all of the memory and nothing of the chunk.
    start, steps = (
        F.pad(part[..., :-1, :], (0, 0, 1, 0), value=first)[:, :, None]
        for part, first in zip(kept, (1.0, 0.0), strict=True)
    )
    return torch.addcmul((scores * steps) @ writes[:, :, None], start, held)
