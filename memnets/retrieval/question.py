"""What a reader of an external memory is given: a question, or words to go on from, and what was retrieved for it."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from memnets.memory.block import Block


class Question(NamedTuple):
    """Questions of a batch, encoded, and what each may read."""

    query: Float[Tensor, "batch word"]
    block: Block


class Prompt(NamedTuple):
    """Texts of a batch, word by word (0 is padding, at the end), and what may be read at each of their words."""

    words: Int[Tensor, "batch time"]
    block: Block
