"""How a DNC's heads find their slots: what they emit, and the parts that can be taken out or put in.

Graves et al. 2016 (Nature 538, Methods). The paper's DNC has temporal links; `KeyMask`, `Deallocation` and
`LinkSharpening` are the changes of Csordas & Schmidhuber 2019 (arXiv:1904.10278). What is null in the YAML isn't there:
nothing of it is computed or learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from memnets.ops.content_address import content_address
from memnets.ops.linkage import LINK_EPSILON, follow_link, link_after, precedence_after
from memnets.ops.masked_content import masked_content_address
from memnets.ops.shift_sharpen import sharpen


@dataclass(frozen=True)
class KeyMask:
    """Which components of a word a key is compared by: a sigmoid for each (section 3.1). Ablated: all of them."""

    def __call__(
        self,
        memory: Float[Tensor, "batch slots word"],
        key: Float[Tensor, "batch heads word"],
        strength: Float[Tensor, "batch heads"],
        mask: Float[Tensor, "batch heads word"],
    ) -> Float[Tensor, "batch heads slots"]:
        """Content weights."""
        return masked_content_address(memory, key, strength, mask)


@dataclass(frozen=True)
class Deallocation:
    """A slot that is freed loses its content, by as much as it is freed (section 3.2). Ablated: until overwritten."""

    def __call__(
        self, memory: Float[Tensor, "batch slots word"], retention: Float[Tensor, "batch slots"]
    ) -> Float[Tensor, "batch slots word"]:
        """The memory to write to."""
        return memory * retention[:, :, None]


@dataclass(frozen=True)
class TemporalLink:
    """Reads go on to what was written next or before. Ablated: reads by content alone, and no memory² numbers."""

    def after(
        self,
        link: Float[Tensor, "batch slots slots"],
        precedence_weights: Float[Tensor, "batch slots"],
        write_weights: Float[Tensor, "batch slots"],
    ) -> tuple[Float[Tensor, "batch slots"], Float[Tensor, "batch slots slots"]]:
        """Precedence weights and links after a write."""
        return precedence_after(precedence_weights, write_weights), link_after(link, precedence_weights, write_weights)

    def follow(
        self, link: Float[Tensor, "batch slots slots"], read_weights: Float[Tensor, "batch heads slots"]
    ) -> tuple[Float[Tensor, "batch heads slots"], Float[Tensor, "batch heads slots"]]:
        """Forward and backward weights."""
        return follow_link(link, read_weights)


@dataclass(frozen=True)
class LinkSharpening:
    """Undoes the blur of links: a power, 1 + softplus, of what they say (section 3.3). Ablated: 1.

    Where links say nothing yet, the sharpened weights are uniform.
    """

    def __call__(
        self, weights: Float[Tensor, "batch heads slots"], sharpening: Float[Tensor, "batch heads"]
    ) -> Float[Tensor, "batch heads slots"]:
        """Weights that sum to 1."""
        return sharpen(weights, sharpening, LINK_EPSILON)


class Emitted(NamedTuple):
    """A part of the interface: so many heads with so many numbers each, and what becomes of the raw ones."""

    num_heads: int
    size: int
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DNCAddressing:
    """Parts of a DNC's addressing beside content, allocation and freeing, which it can't do without.

    Raises:
        ValueError: a sharpening of links without links.
    """

    mask: KeyMask | None = None
    deallocation: Deallocation | None = None
    link: TemporalLink | None = field(default_factory=TemporalLink)
    link_sharpening: LinkSharpening | None = None

    def __post_init__(self) -> None:
        if self.link is None and self.link_sharpening is not None:
            raise ValueError("without links there is nothing to sharpen: set link_sharpening to null as well")

    def interface_size(self, word_size: int, num_read_heads: int) -> int:
        """Numbers all heads together take from the controller."""
        return sum(part.num_heads * part.size for part in self._layout(word_size, num_read_heads).values())

    def emit(
        self, interface: Float[Tensor, "batch interface"], word_size: int, num_read_heads: int
    ) -> dict[str, Float[Tensor, "batch heads size"]]:
        """What the heads emit, by name, each part in its range."""
        parts = self._layout(word_size, num_read_heads)
        pieces = interface.split([part.num_heads * part.size for part in parts.values()], dim=-1)
        return {
            name: part.activation(rearrange(piece, "b (h s) -> b h s", h=part.num_heads))
            for (name, part), piece in zip(parts.items(), pieces, strict=True)
        }

    def write_weights(
        self,
        emitted: dict[str, Float[Tensor, "batch heads size"]],
        memory: Float[Tensor, "batch slots word"],
        allocation: Float[Tensor, "batch slots"],
    ) -> Float[Tensor, "batch 1 slots"]:
        """write_gate · (allocation_gate · allocation + (1 - allocation_gate) · content)."""
        gate = emitted["allocation_gate"]
        content = self._content_weights(emitted, "write", memory)
        return emitted["write_gate"] * (gate * allocation[:, None] + (1 - gate) * content)

    def read_weights(
        self,
        emitted: dict[str, Float[Tensor, "batch heads size"]],
        memory: Float[Tensor, "batch slots word"],
        link: Float[Tensor, "batch slots slots"] | None,
        previous_weights: Float[Tensor, "batch read_heads slots"],
    ) -> Float[Tensor, "batch read_heads slots"]:
        """read_modes · (backward, content, forward); content alone without links."""
        content = self._content_weights(emitted, "read", memory)
        if self.link is None or link is None:
            return content
        forward, backward = self.link.follow(link, previous_weights)
        if self.link_sharpening is not None:
            powers = emitted["link_sharpening"].unbind(-1)
            forward, backward = self.link_sharpening(forward, powers[0]), self.link_sharpening(backward, powers[1])
        return torch.einsum("bhm,mbhn->bhn", emitted["read_modes"], torch.stack([backward, content, forward]))

    def _content_weights(self, emitted: dict[str, Tensor], kind: str, memory: Tensor) -> Tensor:
        key, strength = emitted[f"{kind}_key"], emitted[f"{kind}_strength"].squeeze(-1)
        if self.mask is None:
            return content_address(memory, key, strength)
        return self.mask(memory, key, strength, emitted[f"{kind}_mask"])

    def _layout(self, word_size: int, num_read_heads: int) -> dict[str, Emitted]:
        """Parts of the interface in their order; keys and what is added are raw, as in the paper."""
        layout = {
            "read_key": Emitted(num_read_heads, word_size, _raw),
            "read_strength": Emitted(num_read_heads, 1, one_plus),
            "write_key": Emitted(1, word_size, _raw),
            "write_strength": Emitted(1, 1, one_plus),
            "erase": Emitted(1, word_size, torch.sigmoid),
            "add": Emitted(1, word_size, _raw),
            "free_gates": Emitted(num_read_heads, 1, torch.sigmoid),
            "allocation_gate": Emitted(1, 1, torch.sigmoid),
            "write_gate": Emitted(1, 1, torch.sigmoid),
        }
        if self.link is not None:
            layout["read_modes"] = Emitted(num_read_heads, 3, _distribution)
        if self.mask is not None:
            layout["read_mask"] = Emitted(num_read_heads, word_size, torch.sigmoid)
            layout["write_mask"] = Emitted(1, word_size, torch.sigmoid)
        if self.link_sharpening is not None:
            layout["link_sharpening"] = Emitted(num_read_heads, 2, one_plus)
        return layout


def one_plus(raw: Tensor) -> Tensor:
    """1 + softplus: the paper's oneplus, at least 1."""
    return 1 + F.softplus(raw)


def _raw(raw: Tensor) -> Tensor:
    return raw


def _distribution(raw: Tensor) -> Tensor:
    return torch.softmax(raw, dim=-1)
