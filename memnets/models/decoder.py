"""The parts of a decoder with memories: its layer, its token shift, and what its settings make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memnets.memory.slots.base import LayerMemory, Memory, Sizes, TokenMemory, Window
from memnets.memory.slots.integration import CrossAttention, GatedSum, Integration, JointSoftmax
from memnets.memory.window_attention import LayerState, WindowAttention


class TokenShift(nn.Module):
    """x_t + W x_(t-1): a short convolution (width 2), by which a value's position holds the key before it.

    One look-up then finds a value by its key, where plain attention spends a layer on joining the two. Before a row's
    first step there are zeros.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.previous = nn.Linear(d_model, d_model, bias=False)

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch d_model"]:
        """Zeros."""
        weight = self.previous.weight
        return torch.zeros(batch_size, weight.shape[1], dtype=weight.dtype, device=weight.device)

    def forward(
        self, hidden: Float[Tensor, "batch time d_model"], last: Float[Tensor, "batch d_model"]
    ) -> tuple[Float[Tensor, "batch time d_model"], Float[Tensor, "batch d_model"]]:
        """Shifted vectors, and the last one that came in."""
        extended = torch.cat([last[:, None], hidden], dim=1)
        return hidden + self.previous(extended[:, :-1]), extended[:, -1]


class DecoderLayer(nn.Module):
    """Pre-norm: x + attention(norm(x)), the memory's own block if it is read by cross-attention, x + feed_forward(x).

    The feed-forward part can be left out.
    """

    def __init__(
        self, sizes: Sizes, feed_forward_size: int | None, dropout: float, integration: Integration | None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(sizes.d_model)
        self.attention = WindowAttention(sizes, integration)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = None if feed_forward_size is None else feed_forward(sizes.d_model, feed_forward_size)

    def forward(
        self, hidden: Tensor, position: Tensor, state: LayerState, memory: LayerMemory | None, tokens: Tensor | None
    ) -> tuple[Tensor, LayerState, Window]:
        """A chunk of the sequence, seeing its window, the layer's memory and the tokens if there are any."""
        tokens = None if tokens is None else self.attention_norm(tokens)
        normed = self.attention_norm(hidden)
        attended, after, window = self.attention(normed, position, state, memory, tokens)
        hidden = hidden + self.dropout(attended)
        if memory is not None and isinstance(self.attention.integration, CrossAttention):
            read, remembered = self.attention.cross(hidden, window, memory, state.memory)
            hidden, after = hidden + self.dropout(read), after._replace(memory=remembered)
        return self._feed(hidden), after, window

    def pass_tokens(self, tokens: Tensor) -> Tensor:
        """Memory tokens, by the same weights, seeing one another."""
        return self._feed(tokens + self.dropout(self.attention.among(self.attention_norm(tokens))))

    def pass_after(self, tokens: Tensor, window: Window, length: int | None) -> Tensor:
        """Memory tokens behind the chunk, seeing one another and its last `length` positions."""
        return self._feed(tokens + self.dropout(self.attention.after(self.attention_norm(tokens), window, length)))

    def _feed(self, hidden: Tensor) -> Tensor:
        return hidden if self.feed_forward is None else hidden + self.dropout(self.feed_forward(hidden))


def feed_forward(d_model: int, feed_forward_size: int) -> nn.Sequential:
    """Norm, widen, GELU, narrow."""
    return nn.Sequential(
        nn.LayerNorm(d_model), nn.Linear(d_model, feed_forward_size), nn.GELU(), nn.Linear(feed_forward_size, d_model)
    )


def split_heads(d_model: int, num_heads: int, num_key_heads: int | None, window: int, num_layers: int) -> Sizes:
    """Return the sizes of a layer.

    Raises:
        ValueError: a size is below 1, or can't be split so.
    """
    groups = num_heads if num_key_heads is None else num_key_heads
    if min(d_model, num_layers, num_heads, groups, window) < 1 or d_model % num_heads or num_heads % groups:
        raise ValueError(
            f"d_model must be a multiple of num_heads, num_heads one of num_key_heads, and these, num_layers and "
            f"window at least 1: d_model={d_model}, num_heads={num_heads}, num_key_heads={groups}, "
            f"num_layers={num_layers}, window={window}"
        )
    return Sizes(d_model, num_heads, d_model // num_heads, window, groups)


def make_memories(
    memory: Callable[[Sizes], Memory] | None, sizes: Sizes, layers: Sequence[int], share: bool
) -> tuple[TokenMemory | None, nn.ModuleDict]:
    """Return one memory of tokens for all layers, or memories by layer (`shared`: one for all), as the kind has it.

    Raises:
        TypeError: it is neither kind.
    """
    made = nn.ModuleDict()
    for name in ["shared"] if share else map(str, layers):
        one = None if memory is None else memory(sizes)
        if isinstance(one, TokenMemory):
            return one, nn.ModuleDict()
        if one is not None and not isinstance(one, LayerMemory):
            raise TypeError(f"model.memory must make a LayerMemory or a TokenMemory, not a {type(one).__name__}")
        if one is not None:
            made[name] = one
    return None, made


def make_integration(
    integration: Callable[[Sizes], Integration] | None, memory: LayerMemory | None, sizes: Sizes
) -> Integration | None:
    """Return what joins a layer to its memory; by default the plainest there is for the kind. None without a memory.

    Raises:
        ValueError: the memory reads vectors, and the integration needs keys and values; or the memory weighs entries by
            their age, and the integration by a score of its own.
    """
    if memory is None:
        return None
    if integration is None:
        return JointSoftmax(sizes) if memory.reads == "key-values" else GatedSum(sizes)
    made = integration(sizes)
    if made.needs_keys and memory.reads == "vectors":
        raise ValueError(
            f"model.integration={type(made).__name__} needs keys and values, but {type(memory).__name__} reads "
            f"vectors: choose GatedSum or CrossAttention"
        )
    if getattr(made, "score", None) is not None and getattr(memory, "log_decay", None) is not None:
        raise ValueError(
            f"model.memory.age_key weighs entries by their age, which the score of model.integration="
            f"{type(made).__name__} would replace: leave one of them out"
        )
    return made


def check_layers(memory_layers: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Return the layers that have a memory.

    Raises:
        ValueError: one is named twice, or there is no such layer.
    """
    layers = tuple(range(num_layers)) if memory_layers is None else tuple(memory_layers)
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(num_layers)):
        raise ValueError(f"memory_layers must be different numbers from 0 to {num_layers - 1}, not {list(layers)}")
    return layers
