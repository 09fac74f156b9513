"""How what a memory answers meets what the window holds: one softmax, a gated sum, or attention of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memnets.contracts import Ratio
from memnets.memory.attention_score import AttentionScore
from memnets.memory.block import entropy
from memnets.memory.rotary import place_free
from memnets.memory.slots.base import Found, Gathered, Reading, Sizes, Slots, Window
from memnets.ops.read_slots import gather_slots, read_slots

Values = Float[Tensor, "batch heads time word"]


class Integration(nn.Module, ABC):
    """Joins a layer's reading to its attention. Shapes as in `Window`."""

    needs_keys = False
    """Whether it is impossible with a memory that reads vectors."""

    @abstractmethod
    def forward(self, window: Window, reading: Reading) -> Values:
        """What the layer attends to, window and memory together."""

    @abstractmethod
    def gauge(self, window: Window, reading: Reading) -> dict[str, Ratio]:
        """How much the memory counts: what is worth watching."""


class JointSoftmax(Integration):
    """One softmax over the memory's keys and the near ones: they compete, no parameter decides."""

    needs_keys = True

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()

    def forward(self, window: Window, reading: Reading) -> Values:
        """Values of memory and window, weighted at once."""
        if isinstance(reading, Slots):
            return attend(window, reading)
        found = cast(Found, reading)
        far_weights, near_weights = joint_weights(window, found)
        far = read_slots(found.values, far_weights, found.indices)
        return far + near_weights @ near_values(window)

    def gauge(self, window: Window, reading: Reading) -> dict[str, Ratio]:
        """`share`: the softmax's mass in the memory. `entropy`: of the weights within the memory, in nats."""
        found = as_found(window, reading) if isinstance(reading, Slots) else cast(Found, reading)
        far, _ = joint_weights(window, found)
        share = far.sum(-1)
        return {"share": _mean(share), "entropy": entropy(far / share.clamp_min(1e-12)[..., None], share > 0)}


class GatedSum(Integration):
    """g · read + (1 - g) · attended, with one learned gate per head (Wu et al. 2022, arXiv:2203.08913, section 3.2).

    A query for which a memory of key-values holds nothing yet takes the window alone. A memory of vectors doesn't tell
    whether it holds anything: of an empty one g · 0 is added, and the window's part stays 1 - g.

    Args:
        sizes: of the layer.
        first_gate: where every gate begins, between 0 and 1.
        score: makes the score by which key-values are weighted, for a head's width: additive, say; it sees the half of
            a slot's key that is free of position. None: the layer's own scaled product, and of slots that a search
            found, the score they were found by.

    Raises:
        ValueError: first_gate is not between 0 and 1.
    """

    def __init__(
        self, sizes: Sizes, first_gate: float = 0.5, score: Callable[[int], AttentionScore] | None = None
    ) -> None:
        super().__init__()
        if not 0 < first_gate < 1:
            raise ValueError(f"GatedSum.first_gate must lie between 0 and 1, not {first_gate}")
        self.gate = nn.Parameter(torch.full((sizes.num_heads, 1, 1), first_gate).logit())
        self.score = None if score is None else score(sizes.head_size)

    def forward(self, window: Window, reading: Reading) -> Values:
        """Both, weighted by the gate."""
        read, held = read_alone(window, reading, self.score)
        gate = self.gate.sigmoid() if held is None else self.gate.sigmoid() * held
        local = attend(window)
        return local + gate * (read - local)

    def gauge(self, window: Window, reading: Reading) -> dict[str, Ratio]:
        """`gate`: its mean over heads. `gate_spread`: its standard deviation over heads. `entropy`: of the weights."""
        gate = self.gate.detach().double().sigmoid()
        spread = Ratio(gate.std(correction=0), torch.ones((), dtype=torch.float64, device=gate.device))
        return {"gate": _mean(gate), "gate_spread": spread} | weights_entropy(window, reading, self.score)


class CrossAttention(Integration):
    """A block of its own behind the window's attention: x + W read(norm(x)), asked by queries of its own.

    Args:
        sizes: of the layer.
        score: as in `GatedSum`.
    """

    def __init__(self, sizes: Sizes, score: Callable[[int], AttentionScore] | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.d_model)
        self.query = nn.Linear(sizes.d_model, sizes.d_model, bias=False)
        self.output = nn.Linear(sizes.d_model, sizes.d_model, bias=False)
        self.score = None if score is None else score(sizes.head_size)

    def forward(self, window: Window, reading: Reading) -> Values:
        """What is read from the memory alone; nothing where it holds nothing."""
        read, held = read_alone(window, reading, self.score)
        return read if held is None else read * held

    def gauge(self, window: Window, reading: Reading) -> dict[str, Ratio]:
        """`entropy`: of the weights within the memory, in nats."""
        return weights_entropy(window, reading, self.score)


def attend(window: Window, slots: Slots | None = None) -> Values:
    """One softmax over the window, what is shown beside it, and `slots`."""
    beside = [part for part in (window.shown, slots) if part is not None]
    if window.before == 0 and all(part.visible is None for part in beside):
        return _attend_from_the_start(window, beside)
    rows, time = window.query.shape[0], window.query.shape[2]
    seen = [_seen(part, rows, time) for part in beside]
    return _attention(
        window,
        window.rotated_query,
        along(beside, "keys", window.rotated_keys),
        along(beside, "values", window.values),
        torch.cat([*seen, window.visible.expand(rows, -1, -1)], dim=-1)[:, None],
    )


def _attend_from_the_start(window: Window, beside: list[Slots]) -> Values:
    """The same where nothing lies before the chunk: a causal mask, which needs no table.

    Keys beside the window stand before it, and so do as many queries, of which nothing is kept.
    """
    count = sum(part.keys.shape[2] for part in beside)
    return _attention(
        window,
        F.pad(window.rotated_query, (0, 0, count, 0)),
        along(beside, "keys", window.rotated_keys),
        along(beside, "values", window.values),
    )[:, :, count:]


def _attention(window: Window, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    keys, values = per_query_head(keys, window), per_query_head(values, window)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None, scale=1.0)


def along(beside: list[Slots], field: str, near: Tensor) -> Tensor:
    """Keys or values beside the window, and the near ones behind them."""
    parts = [getattr(part, field).expand(near.shape[0], -1, -1, -1) for part in beside]
    return torch.cat([*parts, near], dim=2) if parts else near


def _seen(slots: Slots, rows: int, time: int) -> Bool[Tensor, "batch time slots"]:
    if slots.visible is None:
        return torch.ones(rows, time, slots.keys.shape[2], dtype=torch.bool, device=slots.keys.device)
    return slots.visible.expand(rows, -1, -1)


def per_query_head(shared: Float[Tensor, "batch groups n word"], window: Window) -> Tensor:
    """Keys or values, once for each query head that shares them."""
    repeats = window.query.shape[1] // shared.shape[1]
    return shared if repeats == 1 else shared.repeat_interleave(repeats, dim=1)


def near_values(window: Window) -> Tensor:
    """Values of the near positions, behind those shown beside them, for every query head."""
    return per_query_head(along([window.shown] if window.shown else [], "values", window.values), window)


def joint_weights(window: Window, found: Found) -> tuple[Tensor, Tensor]:
    """Weights of the found slots, and of what is shown and near, in one softmax.

    Every query sees itself, so that no row of it is all -inf, whatever the memory holds.
    """
    beside = [window.shown] if window.shown else []
    near = window.rotated_query @ per_query_head(along(beside, "keys", window.rotated_keys), window).mT
    rows, time = window.query.shape[0], window.query.shape[2]
    seen = torch.cat([*(_seen(part, rows, time) for part in beside), window.visible.expand(rows, -1, -1)], dim=-1)
    near = near.masked_fill(~seen[:, None], -torch.inf)
    weights = torch.softmax(torch.cat([found.scores, near], dim=-1), dim=-1)
    far, local = weights.split([found.scores.shape[-1], near.shape[-1]], dim=-1)
    return far, local


def read_alone(
    window: Window, reading: Reading, score: AttentionScore | None
) -> tuple[Values, Float[Tensor, "#batch #heads time 1"] | None]:
    """What the memory alone answers, and 1 where it holds anything for a query, else 0; None: everywhere."""
    if isinstance(reading, Tensor | Gathered):
        return reading.vectors if isinstance(reading, Gathered) else reading, None
    if isinstance(reading, Slots) and reading.visible is None and score is None:
        keys, values = per_query_head(reading.keys, window), per_query_head(reading.values, window)
        rows = window.query.shape[0]
        keys, values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
        return F.scaled_dot_product_attention(window.rotated_query, keys, values, scale=1.0), None
    weights = alone_weights(window, reading, score)
    values = (
        weights @ per_query_head(reading.values, window)
        if isinstance(reading, Slots)
        else read_slots(reading.values, weights, reading.indices)
    )
    return values, weights.detach().sum(-1, keepdim=True).gt(0).to(values.dtype)


def alone_weights(window: Window, reading: Slots | Found, score: AttentionScore | None) -> Tensor:
    """Weights within the memory `[batch heads time slots]`, 0 for slots that a query doesn't see."""
    if isinstance(reading, Slots):
        keys = per_query_head(reading.keys, window)
        if score is None:
            scores = window.rotated_query @ keys.mT
        else:  # a rotation says how far apart two vectors are in a product only
            scores = score.score(window.query, place_free(keys)[:, :, None])
        told = _seen(reading, window.query.shape[0], window.query.shape[2])[:, None].expand_as(scores)
    else:
        told = reading.scores > -torch.inf
        scores = (
            reading.scores if score is None else score.score(window.query, gather_slots(reading.keys, reading.indices))
        )
    return torch.softmax(scores.masked_fill(~told, torch.finfo(scores.dtype).min), dim=-1) * told


def weights_entropy(window: Window, reading: Reading, score: AttentionScore | None) -> dict[str, Ratio]:
    """`entropy` of the weights within the memory, in nats, where it holds anything; nothing of bare vectors."""
    if isinstance(reading, Tensor):
        return {}
    weights = reading.weights.detach() if isinstance(reading, Gathered) else alone_weights(window, reading, score)
    return {"entropy": entropy(weights, weights.sum(-1) > 0)}


def as_found(window: Window, slots: Slots) -> Found:
    """Slots as if each query had found them all: the same weights, with every score at hand."""
    scores = window.rotated_query @ per_query_head(slots.keys, window).mT
    told = _seen(slots, window.query.shape[0], window.query.shape[2])[:, None]
    indices = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
    return Found(scores.masked_fill(~told, -torch.inf), indices, slots.keys, slots.values)


def _mean(values: Tensor) -> Ratio:
    return Ratio(values.double().sum(), torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device))
