"""What a reader of an external memory is given: a question and what was retrieved for it."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from memnets.memory.block import Block


class Question(NamedTuple):
    """Questions of a batch, encoded, and what each may read."""

    query: Float[Tensor, "batch word"]
    block: Block
