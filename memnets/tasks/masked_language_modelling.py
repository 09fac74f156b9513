"""Masked language modelling: which tokens were hidden? Trains an encoder further on texts without any labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.files import data_root
from memnets.retrieval.passages import MaskedText
from memnets.retrieval.tokenizer import HashedTokenizer, Tokenizer
from memnets.tasks.base import NoOracleError, Task, class_accuracy, class_loss, epoch_indices, generator
from memnets.tasks.squad_tokens import squad_tokens
from memnets.tasks.text_files import read_texts

KEPT, REPLACED = 0.1, 0.1
"""Shares of the tokens asked for that stay as they are, and that another takes the place of; the rest are [MASK]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedLanguageModelling(Task):
    """Tokens that were hidden, by what stands around them (Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1).

    ```
    inputs    [CLS] the cat [MASK] on the mat [SEP]        targets    sat
    ```

    A split's texts are one line of tokens, cut into windows; each training epoch cuts at another place.

    Attributes:
        path: folder with train, valid and test files, or one file (`text_files.py`); null: the paragraphs of SQuAD, of
            its articles for training, validation and test as `SquadReading` splits them.
        tokenizer: makes tokens of texts: that of the model's encoder.
        window: tokens of a row.
        hidden_share: of these, the part that is asked for.
        num_validation_articles: as of `SquadReading`.
        num_test_articles: as of `SquadReading`.
        data_root: folder below which the texts lie, unless MEMNETS_DATA names it.
        verify_checksum: refuse files that differ from the published ones.

    Raises:
        ValueError: nothing would be asked for.
        DataError: when it is first used: a file is missing or malformed.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)

    path: str | None = None
    tokenizer: Tokenizer = field(default_factory=HashedTokenizer)
    window: int = 96
    hidden_share: float = 0.15
    num_validation_articles: int = 4
    num_test_articles: int = 6
    data_root: str | None = None
    verify_checksum: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.hidden_share < 1 or not 1 <= self.num_hidden < self.window:
            raise ValueError(
                f"MaskedLanguageModelling hides hidden_share={self.hidden_share} of a window of {self.window} tokens: "
                f"at least one must be hidden, and one seen"
            )

    @property
    def num_hidden(self) -> int:
        """Tokens of a row that are asked for."""
        return round(self.hidden_share * self.window)

    @property
    def spec(self) -> Spec:
        """Tokens in, logits over all tokens for the hidden ones out."""
        return Spec("text", self.tokenizer.size, self.tokenizer.size, heads=("tokens",))

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Return shuffled windows for training, all in order for validation and test; what is hidden hangs on the seed.

        Raises:
            IndexError: validation or test has no batch `index`.
            ValueError: the text is too short for a training batch.
        """
        text, random = _line(self, split), generator(seed, split, index)
        if split == "train":
            epoch = index // max(self.num_batches(split, batch_size), 1)
            begin = int(generator(seed, split, epoch).integers(self.window))
            rows = epoch_indices(self._num_windows(split), index, batch_size, seed)
        else:
            begin, rows = 0, np.arange(self._num_windows(split))[index * batch_size : (index + 1) * batch_size]
            if not len(rows):
                raise IndexError(f"{split} has {self.num_batches(split, batch_size)} batches, none number {index}")
        windows = text[begin + rows[:, None] * self.window + np.arange(self.window)]
        return self._hidden(windows, random)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches of an epoch; training leaves an incomplete last one out."""
        count = self._num_windows(split)
        return count // batch_size if split == "train" else -(-count // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over hidden tokens."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of the hidden tokens, between 0 and 1, that are found."""
        return {"accuracy": class_accuracy(outputs, batch)}

    def oracle(self, batch: Batch) -> Tensor:
        """Nobody knows what was hidden.

        Raises:
            NoOracleError: always.
        """
        raise NoOracleError("a hidden token can't be known for sure")

    def _num_windows(self, split: Split) -> int:
        """Whole windows, wherever training begins."""
        return (len(_line(self, split)) - (self.window if split == "train" else 0)) // self.window

    def _hidden(self, windows: np.ndarray, random: np.random.Generator) -> Batch:
        """Hide tokens of some windows; [CLS] and [SEP] come around these, and are never hidden."""
        asked = np.sort(random.random(windows.shape).argsort(-1)[:, : self.num_hidden], -1)
        targets = np.take_along_axis(windows, asked, -1)
        fate, other = random.random(asked.shape), random.choice(windows.ravel(), asked.shape)
        shown = np.where(fate < KEPT, targets, np.where(fate < KEPT + REPLACED, other, self.tokenizer.mask))
        windows = windows.copy()
        np.put_along_axis(windows, asked, shown, -1)
        ends = [np.full((len(windows), 1), token) for token in (self.tokenizer.start, self.tokenizer.separator)]
        tokens = torch.from_numpy(np.concatenate([ends[0], windows, ends[1]], -1))
        mask = torch.ones(asked.shape, dtype=torch.bool)
        return Batch(MaskedText(tokens, torch.from_numpy(asked + 1)), torch.from_numpy(targets), mask)


@lru_cache(maxsize=6)
def _line(task: MaskedLanguageModelling, split: Split) -> np.ndarray:
    """Return all tokens of a split.

    Raises:
        DataError: a file is missing or malformed.
        ValueError: there are fewer tokens than a window has.
    """
    root = data_root(task.data_root)
    texts = _squad(task, root, split) if task.path is None else _file(task, root, split)
    tokens = np.array([token for text in texts for token in text], dtype=np.int64)
    if len(tokens) < task.window * (2 if split == "train" else 1):
        raise ValueError(f"the text for {split} has {len(tokens)} tokens, too few for windows of {task.window}")
    return tokens


def _squad(task: MaskedLanguageModelling, root: Path, split: Split) -> list[tuple[int, ...]]:
    data = squad_tokens(root, "dev-v1.1", task.verify_checksum, task.tokenizer)  # type: ignore[arg-type]
    titles = data.titles(split, task.num_validation_articles, task.num_test_articles)
    return [own.tokens for own, title in zip(data.paragraphs, data.squad.titles, strict=True) if title in titles]


def _file(task: MaskedLanguageModelling, root: Path, split: Split) -> list[tuple[int, ...]]:
    assert task.path is not None
    lines = read_texts(root, task.path, task.verify_checksum)[split].decode().splitlines()
    return [task.tokenizer.tokenize(line).tokens for line in lines]
