"""How a head finds its slots: the five parts of NTM addressing, each a component (NTM paper, section 3.3).

A part says how many numbers it takes from the controller (`size`) and how they become what it emits (`emit`).
Replacing a part by null in the YAML ablates it: nothing of it is computed or learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from memnets.ops.content_address import Similarity, content_address
from memnets.ops.shift_sharpen import shift_sharpen


@dataclass(frozen=True)
class Key:
    """What to look for: tanh of the controller's output, compared by `similarity` with every slot."""

    similarity: Similarity = "cosine"

    def size(self, word_size: int) -> int:
        """One number per component of a word."""
        return word_size

    def emit(self, raw: Float[Tensor, "batch heads word"]) -> Float[Tensor, "batch heads word"]:
        """Bounded to (-1, 1)."""
        return torch.tanh(raw)


@dataclass(frozen=True)
class Strength:
    """How sharply content counts: softplus, positive. Ablated: 1.

    Attributes:
        start: what the heads add to the controller's output before softplus, to begin with; learned from there. At 0 a
            head looks at nearly all slots alike (0.7), at 10 it tells them apart from the first step.
    """

    start: float = 0.0

    def size(self, word_size: int) -> int:
        """One number."""
        return 1

    def emit(self, raw: Float[Tensor, "batch heads 1"]) -> Float[Tensor, "batch heads"]:
        """Positive."""
        return F.softplus(raw.squeeze(-1))


@dataclass(frozen=True)
class Gate:
    """How much content replaces the previous weights: sigmoid. Ablated: content alone."""

    def size(self, word_size: int) -> int:
        """One number."""
        return 1

    def emit(self, raw: Float[Tensor, "batch heads 1"]) -> Float[Tensor, "batch heads"]:
        """Between 0 (keep the previous weights) and 1."""
        return torch.sigmoid(raw.squeeze(-1))


@dataclass(frozen=True)
class Shift:
    """A distribution over shifts of at most `width // 2` slots either way: softmax. Ablated: no shift."""

    width: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % 2 == 0:
            raise ValueError(f"Shift.width must be odd and positive, as shifts go as far down as up, not {self.width}")

    def size(self, word_size: int) -> int:
        """One number per shift."""
        return self.width

    def emit(self, raw: Float[Tensor, "batch heads width"]) -> Float[Tensor, "batch heads width"]:
        """Sums to 1."""
        return torch.softmax(raw, dim=-1)


@dataclass(frozen=True)
class Sharpening:
    """The power that undoes blurring by shifts: 1 + softplus. Ablated: 1."""

    def size(self, word_size: int) -> int:
        """One number."""
        return 1

    def emit(self, raw: Float[Tensor, "batch heads 1"]) -> Float[Tensor, "batch heads"]:
        """At least 1."""
        return 1 + F.softplus(raw.squeeze(-1))


@dataclass(frozen=True)
class Addressing:
    """Content, then location: weights over slots from what the controller emits and the previous weights.

    Raises:
        ValueError: a strength or gate without a key, which is what they act on.
    """

    key: Key | None = field(default_factory=Key)
    strength: Strength | None = field(default_factory=Strength)
    gate: Gate | None = field(default_factory=Gate)
    shift: Shift | None = field(default_factory=Shift)
    sharpening: Sharpening | None = field(default_factory=Sharpening)

    def __post_init__(self) -> None:
        if self.key is None and (self.strength is not None or self.gate is not None):
            raise ValueError("without a key there is no content to weigh: set strength and gate to null as well")

    @property
    def uses_previous_weights(self) -> bool:
        """Whether the weights depend on those of the step before."""
        return self.gate is not None or self.key is None

    def interface_size(self, word_size: int) -> int:
        """Numbers a head takes from the controller."""
        return sum(part.size(word_size) for part in self._parts().values())

    def first_bias(self, word_size: int) -> Float[Tensor, " interface"]:
        """What a head adds to the controller's output before any learning."""
        bias = torch.zeros(self.interface_size(word_size))
        if self.key is not None and self.strength is not None:
            bias[self.key.size(word_size)] = self.strength.start
        return bias

    def emit(self, interface: Float[Tensor, "batch heads interface"], word_size: int) -> dict[str, Tensor]:
        """What each part emits, by name."""
        parts = self._parts()
        pieces = interface.split([part.size(word_size) for part in parts.values()], dim=-1)
        return {name: part.emit(piece) for (name, part), piece in zip(parts.items(), pieces, strict=True)}

    def __call__(
        self,
        interface: Float[Tensor, "batch heads interface"],
        memory: Float[Tensor, "batch slots word"],
        previous_weights: Float[Tensor, "batch heads slots"],
    ) -> Float[Tensor, "batch heads slots"]:
        """Weights of each head over the slots."""
        emitted = self.emit(interface, memory.shape[-1])
        content = self._content_weights(memory, emitted)
        location = [emitted.get(name) for name in ("gate", "shift", "sharpening")]
        return shift_sharpen(content, previous_weights, *location)

    def _content_weights(self, memory: Tensor, emitted: dict[str, Tensor]) -> Tensor | None:
        if self.key is None:
            return None
        key = emitted["key"]
        strength = emitted["strength"] if self.strength else torch.ones_like(key[..., 0])
        return content_address(memory, key, strength, similarity=self.key.similarity)

    def _parts(self) -> dict[str, Key | Strength | Gate | Shift | Sharpening]:
        named = {
            "key": self.key,
            "strength": self.strength,
            "gate": self.gate,
            "shift": self.shift,
            "sharpening": self.sharpening,
        }
        return {name: part for name, part in named.items() if part is not None}


def split_heads(interface: Float[Tensor, "batch wide"], num_heads: int) -> Float[Tensor, "batch heads interface"]:
    """Give every head its own slice of a controller's output."""
    return rearrange(interface, "b (h i) -> b h i", h=num_heads)
