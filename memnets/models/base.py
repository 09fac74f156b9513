"""The model contract: explicit state, nothing remembered on `self`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from memnets.contracts import Kind, Ratio, Spec, reset_rows
from memnets.memory.access import Access
from memnets.memory.block import Block
from memnets.ops.backend import use_backend


class SequenceModel(nn.Module, ABC):
    """A network from inputs and a state to outputs and the next state.

    `outputs, state = model(inputs, state)`: inputs as `Spec.kind` says, outputs `[batch time output_size]`
    (`[batch output_size]` for stories). The state is a NamedTuple of tensors with batch first (or an empty tuple).
    Two half-sequences in turn equal one whole, bar rounding.
    """

    accepts: ClassVar[frozenset[Kind]] = frozenset({"vectors", "tokens"})
    can_answer: ClassVar[frozenset[str]] = frozenset()
    """Of tasks of texts, the heads (`Spec.heads`) that the model can have."""

    state_grows: ClassVar[bool] = False
    """Whether the state's tensors get longer along axes behind the first as steps go by."""

    answers_places: ClassVar[bool] = False
    """Whether `forward` takes a third argument, `where [batch time]`, and then returns the outputs of the marked steps
    alone, `[places 1 output_size]`, in the order of `outputs[where]`.
    """

    @property
    def head(self) -> nn.Linear:
        """The last layer, `self.output`: from a vector for each step to the outputs.

        Raises:
            TypeError: the model has none such.
        """
        output = getattr(self, "output", None)
        if not isinstance(output, nn.Linear):
            raise TypeError(f"{type(self).__name__} does not end in a linear layer of each step, self.output")
        return output

    @property
    def rate_factors(self) -> dict[str, float]:
        """Factors on the learning rate of parts, named as parameters begin: a pretrained part may learn slower."""
        return {}

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step."""

    @abstractmethod
    def forward(self, inputs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """Outputs and the state after the last step; `state=None` starts from `initial_state`."""

    def restart(self, state: Any, starts: Bool[Tensor, " batch"]) -> Any:
        """Return `state` with the rows marked in `starts` at their beginning (`trainer.carry_state`)."""
        return reset_rows(state, self.initial_state(len(starts)), starts)

    def attention(self, inputs: Any) -> Tensor | None:
        """Weights `[batch hops sentences]` over a story's sentences; None for a model without any."""
        return None

    def block(self, inputs: Any, state: Any) -> Block | None:
        """What the model's memory holds once it has read the inputs and is in `state`; None for a model without such.

        Scores are the weights of its last read: mean over heads; of hops one after the other, the last.
        """
        return None

    def go_on(self, inputs: Any, where: Bool[Tensor, " batch *time"]) -> Tensor | None:
        """Tokens `[batch time]` that follow each row's first marked place; None of a model that writes none.

        Each is the likeliest after those before it, the model's own: what `inputs` tells behind the place isn't read.
        """
        return None

    def word_attention(self, inputs: Any) -> Tensor | None:
        """Weights `[batch time items]` of what was retrieved, as each word is read; None of a model that shows none."""
        return None

    def gauges(self, inputs: Any, state: Any = None) -> dict[str, Ratio]:
        """What is worth watching in the model's memories as it reads: usage, gates, entropies, by name."""
        return {}

    @property
    def phases_left(self) -> int:
        """Phases of training still to come. A model that has any keeps its phase in a buffer, for checkpoints."""
        return 0

    def enter_next_phase(self) -> None:
        """Go on to the next phase, where one is left: the trainer says when (`trainer.next_phase`)."""
        raise RuntimeError(f"{type(self).__name__} has no phase of training left")

    def compiled_part(self) -> nn.Module:
        """Return the part `trainer.compile` compiles: where it pays. A recurrent model names its step, not the loop."""
        return self


class InputLayer(nn.Module):
    """Tokens become embeddings; vectors pass unchanged. `output_size` says how wide the result is."""

    def __init__(self, spec: Spec, embedding_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.input_size, embedding_size) if spec.kind == "tokens" else None
        self.output_size = embedding_size if spec.kind == "tokens" else spec.input_size

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs as vectors `[batch time output_size]`."""
        return inputs if self.embedding is None else self.embedding(inputs)


def check_spec(model: type[SequenceModel], spec: Spec) -> None:
    """Refuse a task whose inputs the model can't read.

    Raises:
        ValueError: with the kinds the model accepts.
    """
    if spec.kind not in model.accepts:
        readable = " or ".join(sorted(model.accepts))
        raise ValueError(
            f"{model.__name__} reads {readable}, but the task gives {spec.kind}: "
            f"choose another model, or the task's other view (bAbI: task.view=tokens or task.view=story)"
        )
    if missing := set(spec.heads) - model.can_answer:
        raise ValueError(
            f"{model.__name__} reads texts for {' and '.join(sorted(model.can_answer))}, but the task asks for "
            f"{' and '.join(sorted(missing))} too: choose another model"
        )


def trace(model: SequenceModel, inputs: Tensor) -> tuple[Tensor, list[Any]]:
    """Outputs, and the state after each step: how a finished model's memory is watched."""
    outputs, states, state = [], [], None
    for step in range(inputs.shape[1]):
        output, state = model(inputs[:, step : step + 1], state)
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=1), states


def read_hidden(model: SequenceModel, inputs: Any, state: Any = None) -> tuple[Tensor, Tensor, Any]:
    """What the model's head reads, `[batch time hidden]`, and then what the model returns: outputs and state.

    A hook sees it, and is gone afterwards.
    """
    seen: list[Tensor] = []

    def listen(head: nn.Module, arguments: tuple[Tensor]) -> None:
        seen.append(arguments[0])

    hook = model.head.register_forward_pre_hook(listen)
    try:
        outputs, state = model(inputs, state)
    finally:
        hook.remove()
    return seen[-1], outputs, state


def watch(model: SequenceModel, inputs: Tensor) -> tuple[Tensor, list[Any], dict[str, Tensor]]:
    """What `trace` returns, and what the heads of the model's access emit: by name, `[time batch heads ...]`.

    Hooks see what the controller tells the access, and are gone afterwards. The plain path runs, as kernels call none.
    """
    seen: list[dict[str, Tensor]] = []

    def listen(access: Access, arguments: tuple[Tensor, Any]) -> None:
        seen.append(access.emitted(arguments[0]))

    accesses = [module for module in model.modules() if isinstance(module, Access)]
    hooks = [access.register_forward_pre_hook(listen) for access in accesses[:1]]
    try:
        with use_backend("reference"):
            outputs, states = trace(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, states, {name: torch.stack([step[name] for step in seen]) for name in (seen[0] if seen else {})}
