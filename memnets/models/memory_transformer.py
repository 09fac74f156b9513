"""Memory Transformer: a decoder with a sliding window, and a memory for what lies beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.slots.base import LayerMemory, Memory, Sizes, TokenMemory
from memnets.memory.window_attention import LayerState, WindowAttention
from memnets.models.base import InputLayer, SequenceModel, check_spec


class MemoryTransformerState(NamedTuple):
    """Everything a Memory Transformer remembers.

    Attributes:
        position: steps read in each row.
        shift: what the token shift kept.
        layers: windows and memories of the layers.
        tokens: state of a memory of tokens.
    """

    position: Int[Tensor, " batch"]
    shift: Any
    layers: tuple[LayerState, ...]
    tokens: Any


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
    """Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)) unless that is left out."""

    def __init__(self, sizes: Sizes, feed_forward_size: int | None, dropout: float, memory: LayerMemory | None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(sizes.d_model)
        self.attention = WindowAttention(sizes, memory)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = None if feed_forward_size is None else feed_forward(sizes.d_model, feed_forward_size)

    def forward(
        self, hidden: Tensor, position: Tensor, state: LayerState, tokens: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        """A chunk of the sequence, seeing its window, the layer's memory and the tokens if there are any."""
        tokens = None if tokens is None else self.attention_norm(tokens)
        attended, state = self.attention(self.attention_norm(hidden), position, state, tokens)
        return self._feed(hidden + self.dropout(attended)), state

    def pass_tokens(self, tokens: Tensor) -> Tensor:
        """Memory tokens, by the same weights, seeing one another."""
        return self._feed(tokens + self.dropout(self.attention.among(self.attention_norm(tokens))))

    def _feed(self, hidden: Tensor) -> Tensor:
        return hidden if self.feed_forward is None else hidden + self.dropout(self.feed_forward(hidden))


class MemoryTransformer(SequenceModel):
    """A pre-norm decoder: sliding window, rotary positions, token shift, and a memory of any kind.

    The sequence is read in chunks of at most `window` steps; where it is cut, here or by the caller, changes nothing.

    Args:
        spec: the task's sizes.
        d_model: width of the network.
        num_layers: attention and feed-forward blocks.
        num_heads: heads of each attention; d_model / num_heads must be a multiple of 4.
        window: positions a query sees without a memory, itself included.
        feed_forward_size: width of the feed-forward part; None leaves it out (all-attention).
        dropout: share of every block's contributions set to zero in training.
        memory: makes a memory for a layer's sizes; None leaves only the window.
        memory_layers: layers, from 0, that have a memory (or see the memory's tokens); None: all.
        token_shift: makes the short convolution below the first layer, for a width; None leaves it out.

    Raises:
        ValueError: d_model can't be split into heads, or memory_layers names layers there are not.
    """

    def __init__(
        self,
        spec: Spec,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        window: int = 16,
        feed_forward_size: int | None = 128,
        dropout: float = 0.0,
        memory: Callable[[Sizes], Memory] | None = None,
        memory_layers: Sequence[int] | None = None,
        token_shift: Callable[[int], TokenShift] | None = TokenShift,
    ) -> None:
        super().__init__()
        check_spec(MemoryTransformer, spec)
        if min(d_model, num_layers, num_heads, window) < 1 or d_model % num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads, and these, num_layers and window at least 1: "
                f"d_model={d_model}, num_heads={num_heads}, num_layers={num_layers}, window={window}"
            )
        self.window = window
        self.memory_layers = check_layers(memory_layers, num_layers)
        self.input = InputLayer(spec, d_model)
        width = self.input.output_size
        self.widen = nn.Linear(width, d_model) if width != d_model or spec.kind == "vectors" else nn.Identity()
        self.token_shift = None if token_shift is None else token_shift(d_model)
        sizes = Sizes(d_model, num_heads, d_model // num_heads, window)
        self.memory_tokens, memories = make_memories(memory, sizes, self.memory_layers)
        self.blocks = nn.ModuleList(
            DecoderLayer(sizes, feed_forward_size, dropout, memories.get(layer)) for layer in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, spec.output_size)

    @property
    def receptive_field(self) -> int:
        """Steps, the present one included, that reach an output without a memory."""
        return len(self.blocks) * (self.window - 1) + 1 + (self.token_shift is not None)

    def initial_state(self, batch_size: int) -> MemoryTransformerState:
        """Nothing read, windows and memories empty."""
        return MemoryTransformerState(
            torch.zeros(batch_size, dtype=torch.long, device=self.output.weight.device),
            self.token_shift.initial_state(batch_size) if self.token_shift else (),
            tuple(block.attention.initial_state(batch_size) for block in self._blocks()),
            self.memory_tokens.initial_state(batch_size) if self.memory_tokens else (),
        )

    def forward(
        self, inputs: Shaped[Tensor, "batch time *width"], state: MemoryTransformerState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], MemoryTransformerState]:
        """Logits at every step, and the state after the last."""
        state = self.initial_state(inputs.shape[0]) if state is None else state
        hidden = self.widen(self.input(inputs))
        if self.token_shift is not None:
            hidden, shift = self.token_shift(hidden, state.shift)
            state = state._replace(shift=shift)
        chunks = []
        for chunk in hidden.split(self.window, dim=1):
            read, state = self._read(chunk, state)
            chunks.append(read)
        return self.output(self.norm(torch.cat(chunks, dim=1))), state

    def _read(self, hidden: Tensor, state: MemoryTransformerState) -> tuple[Tensor, MemoryTransformerState]:
        """One chunk through all layers, memory tokens beside it."""
        tokens = self.memory_tokens.read(state.tokens) if self.memory_tokens else None
        layers = []
        for layer, (block, layer_state) in enumerate(zip(self._blocks(), state.layers, strict=True)):
            shown = tokens if layer in self.memory_layers else None
            hidden, layer_state = block(hidden, state.position, layer_state, shown)
            layers.append(layer_state)
            tokens = None if tokens is None else block.pass_tokens(tokens)
        if self.memory_tokens is not None and tokens is not None:
            state = state._replace(tokens=self.memory_tokens.write(state.tokens, tokens))
        return hidden, state._replace(position=state.position + hidden.shape[1], layers=tuple(layers))

    def _blocks(self) -> list[DecoderLayer]:
        return [cast(DecoderLayer, block) for block in self.blocks]


def feed_forward(d_model: int, feed_forward_size: int) -> nn.Sequential:
    """Norm, widen, GELU, narrow."""
    return nn.Sequential(
        nn.LayerNorm(d_model), nn.Linear(d_model, feed_forward_size), nn.GELU(), nn.Linear(feed_forward_size, d_model)
    )


def make_memories(
    memory: Callable[[Sizes], Memory] | None, sizes: Sizes, layers: Sequence[int]
) -> tuple[TokenMemory | None, dict[int, LayerMemory]]:
    """Return one memory of tokens for all layers, or a memory for each of them, as its kind has it.

    Raises:
        TypeError: it is neither kind.
    """
    made: dict[int, LayerMemory] = {}
    if memory is None:
        return None, made
    for layer in layers:
        one = memory(sizes)
        if isinstance(one, TokenMemory):
            return one, {}
        if not isinstance(one, LayerMemory):
            raise TypeError(f"model.memory must make a LayerMemory or a TokenMemory, not a {type(one).__name__}")
        made[layer] = one
    return None, made


def check_layers(memory_layers: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Return the layers that have a memory.

    Raises:
        ValueError: one is named twice, or there is no such layer.
    """
    layers = tuple(range(num_layers)) if memory_layers is None else tuple(memory_layers)
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(num_layers)):
        raise ValueError(f"memory_layers must be different numbers from 0 to {num_layers - 1}, not {list(layers)}")
    return layers
