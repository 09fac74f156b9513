"""What NTM, DNC and SAM have in common: a controller that talks to a memory through its heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from memnets.contracts import Spec
from memnets.memory.access import Access
from memnets.memory.block import Block
from memnets.models.base import InputLayer, SequenceModel, check_spec
from memnets.models.controller import Controller
from memnets.models.fused import FusedSequence, run_fused
from memnets.models.recompute import recomputed
from memnets.ops.sequence import check_steps


class MachineState(NamedTuple):
    """Everything such a machine remembers."""

    controller: Any
    access: Any
    read_vectors: Float[Tensor, "batch read_heads word"]


class Cell(nn.Module):
    """One step: the controller sees the input and the last read vectors, then its heads read and write."""

    def __init__(self, controller: Controller, access: Access) -> None:
        super().__init__()
        self.controller = controller
        self.access = access

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: MachineState
    ) -> tuple[Float[Tensor, "batch features"], MachineState]:
        """Controller output beside the read vectors, and the next state."""
        seen = torch.cat([inputs, rearrange(state.read_vectors, "b h w -> b (h w)")], dim=-1)
        hidden, controller_state = self.controller(seen, state.controller)
        read_vectors, access_state = self.access(hidden, state.access)
        features = torch.cat([hidden, rearrange(read_vectors, "b h w -> b (h w)")], dim=-1)
        return features, MachineState(controller_state, access_state, read_vectors)


class Machine(SequenceModel):
    """Controller, heads and memory; a linear output over controller output and read vectors.

    Args:
        spec: the task's sizes.
        controller: makes a controller for a given input size.
        access: makes memory and heads for a given controller size.
        num_read_heads: heads that read.
        word_size: width of a slot.
        embedding_size: width of token embeddings, for tasks of tokens.
        recompute: keep every √T-th step's state for the backward pass, and run the steps between again.
    """

    fused: ClassVar[FusedSequence | None] = None
    """The op that runs a whole sequence at once."""

    def __init__(
        self,
        spec: Spec,
        controller: Callable[[int], Controller],
        access: Callable[[int], Access],
        num_read_heads: int,
        word_size: int,
        embedding_size: int,
        recompute: bool,
    ) -> None:
        super().__init__()
        check_spec(type(self), spec)
        self.recompute = recompute
        self.input = InputLayer(spec, embedding_size)
        read_size = num_read_heads * word_size
        core = controller(self.input.output_size + read_size)
        self.cell = Cell(core, access(core.output_size))
        self.initial_read_vectors = nn.Parameter(torch.full((num_read_heads, word_size), 1e-6))
        self.output = nn.Linear(core.output_size + read_size, spec.output_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def initial_state(self, batch_size: int) -> MachineState:
        """Learned controller state and read vectors; memory and weights as the heads begin."""
        read_vectors = torch.tanh(self.initial_read_vectors).expand(batch_size, -1, -1)
        controller_state = self.cell.controller.initial_state(batch_size)
        return MachineState(controller_state, self.cell.access.initial_state(batch_size), read_vectors)

    def forward(
        self, inputs: Shaped[Tensor, "batch time *width"], state: MachineState | None = None
    ) -> tuple[Float[Tensor, "batch time output"], MachineState]:
        """Logits at every step, and the state after the last.

        Raises:
            ValueError: inputs without steps.
        """
        seen = self.input(inputs)
        check_steps(seen)
        state = self.initial_state(inputs.shape[0]) if state is None else state
        run = recomputed(self._run) if self.recompute else self._run
        features, state = run(seen, state)
        return self.output(features), state

    def block(self, inputs: Any, state: MachineState) -> Block:
        """The slots, with the weights of the last step's read."""
        return self.cell.access.block(state.access)

    def compiled_part(self) -> nn.Module:
        """Return the step: compiling the loop would compile once per sequence length. A sequence kernel bypasses it."""
        return self.cell

    def _run(
        self, inputs: Float[Tensor, "batch time input"], state: MachineState
    ) -> tuple[Float[Tensor, "batch time features"], MachineState]:
        """Features at every step, and the state after the last: in one kernel where one serves, else step by step."""
        if self.fused and (found := run_fused(self.fused, self.cell.controller, self.cell.access, inputs, state)):
            features, after = found
            return features, MachineState(*after)
        steps = []
        for step_inputs in inputs.unbind(dim=1):
            step_features, state = self.cell(step_inputs, state)
            steps.append(step_features)
        return torch.stack(steps, dim=1), state
