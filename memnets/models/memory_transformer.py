"""Memory Transformer: a decoder with a sliding window, and a memory for what lies beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from memnets.contracts import Ratio, Spec, reset_rows
from memnets.memory.slots.base import LayerMemory, Memory, Reading, Sizes, Window, mean_length
from memnets.memory.slots.integration import Integration
from memnets.memory.window_attention import LayerState
from memnets.models.base import InputLayer, SequenceModel, check_spec
from memnets.models.decoder import DecoderLayer, TokenShift, check_layers, make_integration, make_memories, split_heads


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


class MemoryTransformer(SequenceModel):
    """A pre-norm decoder: sliding window, rotary positions, token shift, and a memory of any kind.

    The sequence is read in chunks of at most `window` steps; where it is cut, here or by the caller, changes nothing.

    Args:
        spec: the task's sizes.
        d_model: width of the network.
        num_layers: attention and feed-forward blocks.
        num_heads: heads of each attention; d_model / num_heads must be a multiple of 4.
        num_key_heads: heads of keys and values, shared by groups of query heads; None: as many as num_heads.
        window: positions a query sees without a memory, itself included.
        feed_forward_size: width of the feed-forward part; None leaves it out (all-attention).
        dropout: share of every block's contributions set to zero in training.
        memory: makes a memory for a layer's sizes; None leaves only the window.
        memory_layers: layers, from 0, that have a memory (or see the memory's tokens); None: all.
        share_memory: whether these layers have one memory's weights in common; what it remembers is each layer's own.
        integration: makes what joins a layer's memory to its window; None: one softmax for a memory of keys and
            values, a gated sum for one that reads vectors.
        token_shift: makes the short convolution below the first layer, for a width; None leaves it out.

    Raises:
        ValueError: d_model can't be split into heads, memory_layers names layers there are not, or memory and
            integration don't go together.
    """

    state_grows = True
    answers_places = True

    def __init__(
        self,
        spec: Spec,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        num_key_heads: int | None = None,
        window: int = 16,
        feed_forward_size: int | None = 128,
        dropout: float = 0.0,
        memory: Callable[[Sizes], Memory] | None = None,
        memory_layers: Sequence[int] | None = None,
        share_memory: bool = False,
        integration: Callable[[Sizes], Integration] | None = None,
        token_shift: Callable[[int], TokenShift] | None = TokenShift,
    ) -> None:
        super().__init__()
        check_spec(MemoryTransformer, spec)
        self.window = window
        sizes = split_heads(d_model, num_heads, num_key_heads, window, num_layers)
        self.memory_layers = check_layers(memory_layers, num_layers)
        self.input = InputLayer(spec, d_model)
        width = self.input.output_size
        self.widen = nn.Linear(width, d_model) if width != d_model or spec.kind == "vectors" else nn.Identity()
        self.token_shift = None if token_shift is None else token_shift(d_model)
        self.memory_tokens, self.memories = make_memories(memory, sizes, self.memory_layers, share_memory)
        self.segment_length = self.memory_tokens.segment_length if self.memory_tokens else None
        if integration is not None and not len(self.memories):
            raise ValueError(
                "model.integration joins a layer's memory to its window, but no layer has one (memory tokens are seen "
                "beside the window): leave it out (null)"
            )
        joins = [make_integration(integration, self._memory(layer), sizes) for layer in range(num_layers)]
        self.blocks = nn.ModuleList(DecoderLayer(sizes, feed_forward_size, dropout, join) for join in joins)
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
            tuple(block.attention.initial_state(batch_size, memory) for block, memory in self._layers()),
            self.memory_tokens.initial_state(batch_size) if self.memory_tokens else (),
        )

    def restart(self, state: MemoryTransformerState, starts: Bool[Tensor, " batch"]) -> MemoryTransformerState:
        """Return `state` with the rows marked in `starts` at position 0, from where nothing before is seen."""
        fresh = self.initial_state(len(starts))
        return MemoryTransformerState(
            torch.where(starts, fresh.position, state.position),
            reset_rows(state.shift, fresh.shift, starts),
            tuple(
                layer.emptied(starts, memory) for layer, (_, memory) in zip(state.layers, self._layers(), strict=True)
            ),
            self.memory_tokens.reset(state.tokens, starts) if self.memory_tokens else (),
        )

    def forward(
        self,
        inputs: Shaped[Tensor, "batch time *width"],
        state: MemoryTransformerState | None = None,
        where: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "rows steps output"], MemoryTransformerState]:
        """Logits at every step, or `where` they are asked for, and the state after the last."""
        state = self.initial_state(inputs.shape[0]) if state is None else state
        hidden = self.widen(self.input(inputs))
        if self.token_shift is not None:
            hidden, shift = self.token_shift(hidden, state.shift)
            state = state._replace(shift=shift)
        chunks = []
        for chunk in hidden.split(self._chunk_sizes(hidden.shape[1], state.position), dim=1):
            read, state = self._read(chunk, state)
            chunks.append(read)
        read = torch.cat(chunks, dim=1)
        read = read if where is None else read[where][:, None]
        return self.output(self.norm(read)), state

    def gauges(self, inputs: Any, state: Any = None) -> dict[str, Ratio]:
        """What kinds and integrations find worth watching, by layer: `memory_0_gate`, say; of tokens, their length.

        Hooks listen while the model reads the inputs, and are gone afterwards.
        """
        found: dict[str, Ratio] = {}
        states: list[Any] = []

        def remember(memory: LayerMemory, given: Any, answer: tuple[Reading, Any]) -> None:
            states.append(answer[1])

        def note(layer: int, memory: LayerMemory, join: Integration, given: tuple[Window, Reading], _: Any) -> None:
            for name, ratio in {**memory.gauge(given[1], states[-1]), **join.gauge(*given)}.items():
                before = found.get(f"memory_{layer}_{name}", (0, 0))
                found[f"memory_{layer}_{name}"] = Ratio(ratio.total + before[0], ratio.count + before[1])

        hooks = [memory.register_forward_hook(remember) for memory in self.memories.values()]
        for layer, (block, memory) in enumerate(self._layers()):
            join = block.attention.integration
            if memory is not None and join is not None:
                hooks.append(join.register_forward_hook(partial(note, layer, memory)))
        try:
            _, after = self(inputs, state)
        finally:
            for hook in hooks:
                hook.remove()
        if self.memory_tokens is not None:
            found["memory_tokens_norm"] = mean_length(self.memory_tokens.read(after.tokens))
        return found

    def _read(self, hidden: Tensor, state: MemoryTransformerState) -> tuple[Tensor, MemoryTransformerState]:
        """One chunk through all layers, memory tokens beside it, and behind it where a segment ends."""
        position = state.position + hidden.shape[1]
        tokens = self.memory_tokens.read(state.tokens) if self.memory_tokens else None
        ends = self._segment_ends(position)
        written = tokens.expand(len(position), -1, -1) if tokens is not None and ends.any() else None
        layers = []
        for layer, (block, memory) in enumerate(self._layers()):
            shown = tokens if layer in self.memory_layers else None
            hidden, layer_state, window = block(hidden, state.position, state.layers[layer], memory, shown)
            layers.append(layer_state)
            tokens = None if tokens is None else block.pass_tokens(tokens)
            written = None if written is None else block.pass_after(written, window, self.segment_length)
        if self.memory_tokens is not None and written is not None:
            wrote = self.memory_tokens.write(state.tokens, written)
            state = state._replace(tokens=reset_rows(state.tokens, wrote, ends))
        return hidden, state._replace(position=position, layers=tuple(layers))

    def _chunk_sizes(self, time: int, position: Int[Tensor, " batch"]) -> list[int]:
        """Lengths of at most `window`; of tokens that are written, each to the next end of any row's segment."""
        edges = set(range(0, time, self.window)) | {time}
        if self.segment_length is not None:
            for at in set(position.tolist()):
                edges |= set(range(self.segment_length - at % self.segment_length, time, self.segment_length))
        return [last - first for first, last in pairwise(sorted(edges))]

    def _segment_ends(self, position: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Rows for which a segment of written tokens ends at `position`."""
        if self.segment_length is None:
            return torch.zeros_like(position, dtype=torch.bool)
        return position % self.segment_length == 0

    def _memory(self, layer: int) -> LayerMemory | None:
        if layer not in self.memory_layers or not len(self.memories):
            return None
        return cast(LayerMemory, self.memories["shared" if "shared" in self.memories else str(layer)])

    def _layers(self) -> list[tuple[DecoderLayer, LayerMemory | None]]:
        return [(cast(DecoderLayer, block), self._memory(layer)) for layer, block in enumerate(self.blocks)]
