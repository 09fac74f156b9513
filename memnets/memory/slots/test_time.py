"""Neural memory: a small network per head that learns the sequence while reading it (Titans, arXiv:2501.00663)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from memnets.contracts import Ratio
from memnets.memory.slots.base import LayerMemory, Reading, Sizes, Window, unit_length
from memnets.ops.neural_memory import NeuralMemoryState, Weights, neural_memory

FIRST_RATE, FIRST_CARRY, FIRST_FORGOTTEN = 0.5, 0.5, 0.01
"""Shares with which the gates of an entry begin: of its error, of the momentum, and of the weights that go."""

CHUNK_SIZE = 16


class NeuralState(NamedTuple):
    """The networks, and for what is worth watching sums over the entries read.

    Attributes:
        network: of each key head.
        loss: squared errors of the networks, before they learned.
        kept: shares of the weights that were kept.
    """

    network: NeuralMemoryState
    loss: Float[Tensor, "batch groups"]
    kept: Float[Tensor, "batch groups"]


class NeuralMemory(LayerMemory):
    """A network per key head that is trained on every position's key and value, and read by the layer's queries.

    A chunk is `chunk_size` positions of a row, counted from its start. Queries read the network as it was when their
    chunk began; what came since is in the window. The chunk's own entries, and not those that leave the window, then
    change it: W by momentum and decay of the gradients of |f_W(k) - v|² (`ops.neural_memory`). Keys and queries are the
    layer's, of length 1 and without rotation. The W that a row begins with is learned.

    Every position decides by its hidden vector, for each head: the share e of the momentum that is kept, at first 0.5;
    of the weights, at first 0.99; and r, at first 0.5, by which the rate of learning is (1 - e) r. So the momentum is a
    running mean of gradients, and how far one entry moves a linear memory in the end doesn't depend on e: by 2 r of its
    error, at first by all of it.

    Entries of a chunk don't know of one another: many keys alike overshoot. So that no text can make it diverge, a
    gradient is cut to the length 2 √head_size, that of an error of 1 in every component under a key of length 1: then
    |W| grows by no more than that an entry, whatever is read. What isn't finite in a key, a value or a hidden vector
    stays in its row until `reset`.

    Args:
        sizes: of the layer.
        hidden_size: units between the two matrices of a network; None: one matrix, a linear map.
        chunk_size: positions learned at once, at most `window`; None: 16, or the window if that is shorter.

    Raises:
        ValueError: hidden_size is below 1, or a chunk doesn't fit into the window.
    """

    reads: ClassVar[Literal["key-values", "vectors"]] = "vectors"

    def __init__(self, sizes: Sizes, hidden_size: int | None = 64, chunk_size: int | None = None) -> None:
        super().__init__()
        self.chunk_size = min(CHUNK_SIZE, sizes.window) if chunk_size is None else chunk_size
        if not 1 <= self.chunk_size <= sizes.window:
            raise ValueError(
                f"NeuralMemory needs 1 <= chunk_size <= window, not {chunk_size} and {sizes.window}: "
                f"what a chunk holds is not in the memory until its end, and must be seen in the window till then"
            )
        if hidden_size is not None and hidden_size < 1:
            raise ValueError(f"NeuralMemory.hidden_size must be at least 1 (or null: a linear map), not {hidden_size}")
        groups, word = sizes.num_key_heads, sizes.head_size
        self.longest = 2 * math.sqrt(word)
        self.gates = nn.Linear(sizes.d_model, 3 * groups)
        first = torch.tensor([FIRST_RATE, FIRST_CARRY, 1 - FIRST_FORGOTTEN]).logit()
        nn.init.zeros_(self.gates.weight)
        self.gates.bias = nn.Parameter(first.repeat_interleave(groups))
        inner = [] if hidden_size is None else [torch.randn(groups, word, hidden_size)]
        self.first = nn.ParameterList([*inner, torch.zeros(groups, hidden_size or word, word)])

    def initial_state(self, batch_size: int) -> NeuralState:
        """Return the weights that rows begin with, and no momentum."""
        weights: Weights = tuple(first.expand(batch_size, -1, -1, -1) for first in self.first)
        momentum = tuple(torch.zeros_like(matrix) for matrix in weights)
        entries = torch.zeros(batch_size, dtype=torch.long, device=weights[0].device)
        nothing = momentum[0][:, :, 0, 0]
        return NeuralState(NeuralMemoryState(weights, weights, momentum, entries), nothing, nothing)

    def forward(self, window: Window, state: NeuralState) -> tuple[Float[Tensor, "batch heads time word"], NeuralState]:
        """Read for every query what was learned before its chunk, and learn the positions read."""
        gates = rearrange(self.gates(window.hidden), "b t (gate g) -> gate b g t", gate=3).to(state.loss.dtype)
        carry, decay = F.logsigmoid(gates[1]), F.logsigmoid(gates[2])
        rate = gates[0].sigmoid() * (-gates[1]).sigmoid()
        keys, values = window.keys[:, :, window.before :], window.values[:, :, window.before :]
        read, loss, network = neural_memory(
            unit_length(window.query), keys, values, rate, carry, decay, state.network, self.chunk_size, self.longest
        )
        loss, kept = loss.detach().sum(-1), decay.detach().exp().sum(-1)
        return read, NeuralState(network, state.loss + loss, state.kept + kept)

    def gauge(self, reading: Reading, state: NeuralState) -> dict[str, Ratio]:
        """`norm`: of a head's weights. `surprise`: mean loss. `kept`: mean share of the weights that an entry left."""
        squares = [matrix.detach().double().square().sum((2, 3)) for matrix in state.network.weights]
        norms = torch.stack(squares).sum(0).sqrt()
        entries = state.network.entries.double().sum() * norms.shape[1]
        return {
            "norm": Ratio(norms.sum(), torch.tensor(float(norms.numel()), dtype=torch.float64, device=norms.device)),
            "surprise": Ratio(state.loss.double().sum(), entries),
            "kept": Ratio(state.kept.double().sum(), entries),
        }
