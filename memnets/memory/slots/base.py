"""The contract of a Transformer's memory: explicit state, read, write, reset; and the window it works beside.

A memory has one of two places. A `LayerMemory` serves a layer and reads for its queries (persistent key-values, kNN
memory, fast weights). A `TokenMemory` belongs to the model: its tokens pass through the layers beside the sequence, and
every position can attend to them (memory tokens, recurrent memory).

What a LayerMemory hands out is a `Reading`; how it meets what the window holds is the layer's `Integration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memnets.contracts import Ratio, reset_rows


class Sizes(NamedTuple):
    """What only the model knows about the layers that a memory serves.

    Attributes:
        d_model: width of the sequence's vectors: num_heads * head_size.
        num_heads: query heads of a layer.
        head_size: width of a head's queries, keys and values.
        window: positions a query sees without a memory, itself included; a chunk is no longer than this.
        num_key_heads: heads of keys and values, each shared by num_heads / num_key_heads query heads.
    """

    d_model: int
    num_heads: int
    head_size: int
    window: int
    num_key_heads: int


class Slots(NamedTuple):
    """A reading: keys and values that all queries may attend to.

    Attributes:
        keys: rotated as `Window.rotated_keys` are, or free of position (`rotary.place_free`).
        values: what is read.
        visible: which slots a query sees; None: all.
    """

    keys: Float[Tensor, "#batch groups slots word"]
    values: Float[Tensor, "#batch groups slots word"]
    visible: Bool[Tensor, "#batch time slots"] | None = None


class Found(NamedTuple):
    """A reading: for each query the k slots that its memory found, with their scores; -inf where there are fewer."""

    scores: Float[Tensor, "batch heads time k"]
    indices: Int[Tensor, "batch heads time k"]
    keys: Float[Tensor, "batch groups slots word"]
    values: Float[Tensor, "batch groups slots word"]


class Gathered(NamedTuple):
    """A reading: vectors already read, and by what weights from which slots: each of the memory's heads chose k."""

    vectors: Float[Tensor, "batch heads time word"]
    weights: Float[Tensor, "batch reads time k"]
    indices: Int[Tensor, "batch reads time k"]


Reading = Slots | Found | Gathered | Tensor
"""What a memory answers: key-values still to be attended to, or vectors `[batch heads time word]`."""


class Window(NamedTuple):
    """A chunk of queries and their neighbourhood ("near"): up to `window - 1` earlier positions, then the chunk itself.

    Attributes:
        hidden: the chunk as the layer reads it, normed.
        query: one per head and position of the chunk, scaled, without rotation.
        rotated_query: the same, rotated.
        keys: of all near positions, of length 1, without rotation.
        rotated_keys: the same, rotated; the first near position is step 0.
        values: of all near positions.
        visible: which near position a query sees: itself, the `window - 1` before it, none before the row's start.
        start: position of the chunk's first query in its row.
        size: of the window.
        shown: key-values that every query sees beside the near ones: a model's memory tokens.
    """

    hidden: Float[Tensor, "batch time d_model"]
    query: Float[Tensor, "batch heads time word"]
    rotated_query: Float[Tensor, "batch heads time word"]
    keys: Float[Tensor, "batch groups near word"]
    rotated_keys: Float[Tensor, "batch groups near word"]
    values: Float[Tensor, "batch groups near word"]
    visible: Bool[Tensor, "#batch time near"]
    start: Int[Tensor, " batch"]
    size: int
    shown: Slots | None = None

    @property
    def before(self) -> int:
        """Near positions before the chunk; 0 only where every row begins with it."""
        return self.keys.shape[2] - self.query.shape[2]

    def leaving(self) -> tuple[Tensor, Tensor, Int[Tensor, "batch time"]]:
        """Keys, values and positions of what the window loses, one per query; a negative position is no entry.

        Entry i leaves the window after query i: the first query that no longer sees it is number i + 1.
        """
        time, missing = self.query.shape[2], self.size - 1 - self.before
        steps = torch.arange(time, device=self.start.device)
        positions = self.start[:, None] - (self.size - 1) + steps
        return _first(self.keys, missing, time), _first(self.values, missing, time), positions


def _first(near: Tensor, missing: int, time: int) -> Tensor:
    """The first `time` of the near positions, had `missing` zeros stood before them."""
    near = near[:, :, : max(time - missing, 0)]
    return torch.nn.functional.pad(near, (0, 0, time - near.shape[2], 0)) if near.shape[2] < time else near


class Memory(nn.Module, ABC):
    """What every kind has: a state with batch first, nothing remembered on `self`."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State of an empty memory: tensors with batch first in (named) tuples; `()` where nothing is remembered."""

    def reset(self, state: Any, where: Bool[Tensor, " batch"]) -> Any:
        """State with the memory of the rows marked in `where` emptied, all others untouched."""
        return reset_rows(state, self.initial_state(where.shape[0]), where)


class LayerMemory(Memory):
    """A memory of a layer, asked by its queries, fed with the keys and values that leave its window.

    A kind writes `read` and `write`, or, where the two can't be told apart, `forward`.
    """

    reads: ClassVar[Literal["key-values", "vectors"]] = "key-values"
    """What its readings are: an integration by one softmax needs key-values."""

    def read(self, window: Window, state: Any) -> Reading:
        """What the memory holds for the chunk's queries; query i sees what was written before entry i."""
        raise NotImplementedError(f"{type(self).__name__} has neither read nor forward")

    def write(
        self,
        state: Any,
        keys: Float[Tensor, "batch groups time word"],
        values: Float[Tensor, "batch groups time word"],
        positions: Int[Tensor, "batch time"],
    ) -> Any:
        """State after consecutive `positions` of each row were written; negative ones are no entries.

        A memory that is only learned writes nothing.
        """
        return state

    def forward(self, window: Window, state: Any) -> tuple[Reading, Any]:
        """Write what leaves the window, then read: the same as query by query, as a read sees earlier entries only."""
        state = self.write(state, *window.leaving())
        return self.read(window, state), state

    def gauge(self, reading: Reading, state: Any) -> dict[str, Ratio]:
        """What is worth watching in a memory of this kind, as sums and counts: its norm, the slots in use."""
        return {}


class TokenMemory(Memory):
    """A memory of the model: vectors that pass through the layers beside the sequence.

    `segment_length` is None where tokens are only learned. Else they are written at the end of every so many positions
    of a row: after the segment's last step they pass through the layers once more, seeing the segment, and what leaves
    the last layer is handed to `write`.
    """

    segment_length: int | None = None

    @abstractmethod
    def read(self, state: Any) -> Float[Tensor, "#batch tokens d_model"]:
        """Tokens as they enter the first layer (batch 1 if they are the same in every row)."""

    def write(self, state: Any, tokens: Float[Tensor, "batch tokens d_model"]) -> Any:
        """State after a segment, from the tokens as they left the last layer."""
        return state


def unit_length(vectors: Float[Tensor, "*rows word"]) -> Float[Tensor, "*rows word"]:
    """v / √(|v|² + 1e-8): length 1, and a finite gradient at zero."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-8)


def mean_length(vectors: Float[Tensor, "*rows word"], held: Bool[Tensor, "*rows"] | None = None) -> Ratio:
    """Euclidean length of vectors, the mean of those that are `held` (None: all); 0 where none is."""
    lengths = vectors.detach().double().norm(dim=-1)
    held = torch.ones_like(lengths, dtype=torch.bool) if held is None else held
    return Ratio(lengths.masked_fill(~held, 0).sum(), held.double().sum().clamp_min(1))
