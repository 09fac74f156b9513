"""A reader of an external memory: answers a question from what was retrieved for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from memnets.contracts import Spec
from memnets.memory.block import Block
from memnets.models.base import SequenceModel, check_spec
from memnets.retrieval.integration import Integration, Pointer
from memnets.retrieval.question import Question


class RetrievalReader(SequenceModel):
    """Answers by an integration of question and Block. It knows no texts: encoding and retrieval are the task's.

    Args:
        spec: the task's sizes.
        integration: makes what joins question and memory, for these sizes.

    Raises:
        ValueError: a task without retrieval, or one whose memory lacks what the integration reads.
    """

    accepts = frozenset({"question"})

    def __init__(self, spec: Spec, integration: Callable[[Spec], Integration] = Pointer) -> None:
        super().__init__()
        check_spec(RetrievalReader, spec)
        self.integration = integration(spec)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: a question is answered at once."""
        return ()

    def forward(self, inputs: Question, state: Any = None) -> tuple[Float[Tensor, "batch output"], tuple[()]]:
        """Logits of the answers."""
        return self.integration(inputs.query, inputs.block), ()

    def attention(self, inputs: Question) -> Float[Tensor, "batch hops items"] | None:
        """Weights over what was retrieved, in each hop; None of an integration without any."""
        weights: Tensor | None = self.integration.attention(inputs.query, inputs.block)
        return weights

    def block(self, inputs: Question, state: Any = None) -> Block | None:
        """What was retrieved, with its weights, mean over hops, as scores; None where nothing is attended to."""
        weights = self.attention(inputs)
        return None if weights is None else inputs.block._replace(scores=weights.mean(1))
