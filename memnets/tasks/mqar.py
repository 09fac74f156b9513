"""MQAR: multi-query associative recall (Arora et al. 2023, Zoology, arXiv:2312.04927)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec
from memnets.tasks.base import Criterion, ratio
from memnets.tasks.token_sequences import TokenTask, as_scores, check_least


@dataclass(frozen=True, kw_only=True)
class MQAR(TokenTask):
    """Multi-query associative recall: pairs of keys and values, then each key once more, which asks for its value.

    ```
    gap                   0   1   2   3
    token      A a B b    B . . . A . . .      2 pairs; . is any token
    target                b       a            counted where a letter is
    ```

    Keys are the lower half of the vocabulary, values the upper one, and the classes of the answer are the values. The
    keys of a sequence differ, and so do its values. A query's gap counts places, two steps apart, from the last pair
    on. Gaps follow the paper's power law: the first pair's is g with a chance in proportion to (g + 1)^(power_a - 1),
    the next pair's likewise among those still free, and so on. All are drawn at once, as the `num_pairs` greatest of
    log-chance plus Gumbel noise, which is the same.

    The settings that others report, as (length, num_pairs): (64, 4), (128, 8), (256, 16), (512, 64), for
    `vocabulary_size` 8192; there on 100,000 sequences that come again, here on new ones. Guessing is right
    2 / vocabulary_size of the time. A plateau at 1 / num_pairs means "some value of this sequence": not yet solved.

    Attributes:
        length: steps of a sequence.
        num_pairs: pairs of a sequence, as many as queries.
        vocabulary_size: tokens.
        power_a: how the law of gaps falls: 1 not at all, 0.01 nearly as 1 / (gap + 1).
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    solved: ClassVar[Criterion | None] = Criterion("accuracy", 0.99, "max")
    judges_places: ClassVar[bool] = True

    length: int = 64
    num_pairs: int = 4
    vocabulary_size: int = 8192
    power_a: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "num_pairs")
        if self.num_places < self.num_pairs:
            raise ValueError(
                f"length={self.length} is too short: num_pairs={self.num_pairs} pairs and queries, both two steps "
                f"apart, take {4 * self.num_pairs - 1}"
            )
        if self.vocabulary_size % 2 or self.vocabulary_size < 4 * self.num_pairs:
            raise ValueError(
                f"vocabulary_size={self.vocabulary_size} must be even and at least {4 * self.num_pairs}: half of it "
                f"are keys, and twice as many as num_pairs={self.num_pairs}"
            )
        if self.power_a <= 0:
            raise ValueError(f"power_a must be greater than 0, not {self.power_a}")

    @property
    def num_values(self) -> int:
        """Values, and keys: half the vocabulary each."""
        return self.vocabulary_size // 2

    @property
    def num_places(self) -> int:
        """Places for queries: every second step behind the pairs."""
        return (self.length - 2 * self.num_pairs + 1) // 2

    @property
    def spec(self) -> Spec:
        """Tokens in, values out."""
        return Spec("tokens", self.vocabulary_size, self.num_values)

    @property
    def chance(self) -> dict[str, float]:
        """Any value is as likely as another."""
        return {"accuracy": 1 / self.num_values}

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of right answers."""
        return {"accuracy": ratio((outputs.argmax(-1) == batch.targets).double(), batch.mask)}

    def oracle(self, batch: Batch) -> Tensor:
        """Look every token up among the pairs; what no pair binds gets some value."""
        keys, tokens = batch.inputs[:, : 2 * self.num_pairs].unflatten(1, (-1, 2)).unbind(-1)
        asked = (batch.inputs[:, :, None] == keys[:, None]).int().argmax(-1)
        return as_scores((tokens - self.num_values).gather(1, asked), self.num_values)

    def at_length(self, length: int) -> MQAR:
        """Return the task with sequences of `length` steps and as many pairs."""
        return replace(self, length=length)

    def _draw(self, random: np.random.Generator, batch_size: int) -> Batch:
        keys, values = (distinct_among_many(random, batch_size, self.num_values, self.num_pairs) for _ in range(2))
        tokens = random.integers(0, self.vocabulary_size, (batch_size, self.length))
        tokens[:, 0 : 2 * self.num_pairs : 2] = keys
        tokens[:, 1 : 2 * self.num_pairs : 2] = values + self.num_values
        places = 2 * (self.num_pairs + self._gaps(random, batch_size))
        targets, mask = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
        for part, content in ((tokens, keys), (targets, values), (mask, True)):
            np.put_along_axis(part, places, content, 1)
        return Batch(*(torch.from_numpy(part) for part in (tokens, targets, mask)))

    def _gaps(self, random: np.random.Generator, batch_size: int) -> np.ndarray:
        """Gap of each pair's query, `[batch pairs]`."""
        log_chances = (self.power_a - 1) * np.log(np.arange(1, self.num_places + 1))
        drawn = log_chances + random.gumbel(size=(batch_size, self.num_places))
        return (-drawn).argsort(1)[:, : self.num_pairs]


def distinct_among_many(random: np.random.Generator, batch_size: int, below: int, count: int) -> np.ndarray:
    """`count` different numbers from 0 to `below` - 1 in each row; whichever equals an earlier one is drawn again.

    Quick where `below` is at least twice `count`: sorting all numbers takes as long as there are many.
    """
    numbers = random.integers(0, below, (batch_size, count))
    earlier = np.tri(count, k=-1, dtype=bool)
    while (again := ((numbers[:, :, None] == numbers[:, None]) & earlier).any(-1)).any():
        numbers[again] = random.integers(0, below, again.sum())
    return numbers
