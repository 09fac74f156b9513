"""Neural Turing Machine (Graves, Wayne & Danihelka 2014, arXiv:1410.5401)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.access import Access, AccessState
from memnets.memory.addressing import Addressing
from memnets.memory.initial_memory import ConstantMemory
from memnets.models.base import InputLayer, SequenceModel, check_spec
from memnets.models.controller import Controller, LSTMController
from memnets.models.ntm_sequence import run_fused
from memnets.models.recompute import recomputed


class NTMState(NamedTuple):
    """Everything an NTM remembers."""

    controller: Any
    access: AccessState
    read_vectors: Float[Tensor, "batch read_heads word"]


class NTMCell(nn.Module):
    """One step: the controller sees the input and the last read vectors, then its heads read and write."""

    def __init__(self, controller: Controller, access: Access) -> None:
        super().__init__()
        self.controller = controller
        self.access = access

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: NTMState
    ) -> tuple[Float[Tensor, "batch features"], NTMState]:
        """Controller output beside the read vectors, and the next state."""
        seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
        hidden, controller_state = self.controller(seen, state.controller)
        read_vectors, access_state = self.access(hidden, state.access)
        features = torch.cat([hidden, rearrange(read_vectors, "b h w -> b (h w)")], dim=-1)
        return features, NTMState(controller_state, access_state, read_vectors)

    def run(
        self, inputs: Float[Tensor, "batch time input"], state: NTMState
    ) -> tuple[Float[Tensor, "batch time features"], NTMState]:
        """Features at every step, and the state after the last: in one kernel where one serves, else step by step."""
        if fused := run_fused(self.controller, self.access, inputs, state):
            features, after = fused
            return features, NTMState(*after)
        steps = []
        for step_inputs in inputs.unbind(dim=1):
            step_features, state = self(step_inputs, state)
            steps.append(step_features)
        return torch.stack(steps, dim=1), state


class NTM(SequenceModel):
    """Controller, heads and memory; a linear output over controller output and read vectors.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        addressing: how heads find their slots.
        initial_memory: makes the first memory for (memory_size, word_size).
        memory_size: number of slots.
        word_size: width of a slot.
        num_read_heads: heads that read.
        num_write_heads: heads that write.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller] = LSTMController,
        addressing: Addressing | None = None,
        initial_memory: Callable[[int, int], nn.Module] = ConstantMemory,
        memory_size: int = 128,
        word_size: int = 20,
        num_read_heads: int = 1,
        num_write_heads: int = 1,
        embedding_size: int = 64,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_spec(NTM, spec)
        self.recompute = recompute
        self.input = InputLayer(spec, embedding_size)
        read_size = num_read_heads * word_size
        core = controller(self.input.output_size + read_size)
        make_access = partial(Access, core.output_size, memory_size, word_size, num_read_heads, num_write_heads)
        self.cell = NTMCell(core, make_access(addressing or Addressing(), initial_memory(memory_size, word_size)))
        self.initial_read_vectors = nn.Parameter(torch.full((num_read_heads, word_size), 1e-6))
        self.output = nn.Linear(core.output_size + read_size, spec.output_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def initial_state(self, batch_size: int) -> NTMState:
        """Learned controller state, weights and read vectors; memory by the chosen scheme."""
        read_vectors = torch.tanh(self.initial_read_vectors).expand(batch_size, -1, -1)
        controller_state = self.cell.controller.initial_state(batch_size)
        return NTMState(controller_state, self.cell.access.initial_state(batch_size), read_vectors)

    def forward(
        self, inputs: Shaped[Tensor, "batch time *width"], state: NTMState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], NTMState]:
        """Logits at every step, and the state after the last."""
        state = self.initial_state(inputs.shape[0]) if state is None else state
        run = recomputed(self.cell.run) if self.recompute else self.cell.run
        features, state = run(self.input(inputs), state)
        return self.output(features), state

    def compiled_part(self) -> nn.Module:
        """Return the step: compiling the loop would compile once per sequence length. A sequence kernel bypasses it."""
        return self.cell
