"""Omniglot: name characters never seen before from a few drawings of each (Santoro et al. 2016, arXiv:1605.06065)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.linalg import matrix_power
from torch import Tensor

from memnets.contracts import Batch, Ratio, Spec, Split
from memnets.files import data_root
from memnets.tasks.base import DataError, Task, as_tensor, class_loss, distinct, generator, ratio
from memnets.tasks.omniglot_files import IMAGE_SIZE, Characters, read_characters

PIXELS = IMAGE_SIZE**2
INSTANCES = (1, 2, 5, 10)
"""Which drawing of its class an accuracy is reported for: the first can only be guessed."""

QUARTER_TURN, MIRROR = np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, 1]])
LAID = np.stack([mirror @ matrix_power(QUARTER_TURN, n) for mirror in (np.eye(2), MIRROR) for n in range(4)])
"""The eight ways to lay a square on itself."""

NOVEL = 5.0
"""Farther than this from all earlier drawings, in root of summed squared ink, the oracle takes a drawing for new."""


@dataclass(frozen=True, kw_only=True)
class Omniglot(Task):
    """Episodes of drawings of a few characters, each named right after it was classified.

    ```
    step        0    1    2    3    4    5  ...     2 classes; which is 0 and which 1 is drawn anew for each episode
    drawing     A    B    A    A    B    A          no two alike; 400 pixels, 1 is ink
    label       .    0    1    0    0    1          of the step before, one-hot
    target      0    1    0    0    1    0
    group       1    1    2    3    2    4          which drawing of its class it is
    ```

    A class is a character; for training it is turned by a random multiple of 90 degrees and mirrored or not, which
    makes eight of each, and each drawing is turned and moved a little. No alphabet is in two splits; those that
    `validation_alphabets` and `test_alphabets` don't name are for training. A class's first drawing can be told only
    from which labels are still free: with 5 classes nothing gets more than 45.7 % of those right on average.

    Attributes:
        num_classes: characters of an episode.
        num_examples: drawings of each, at least 10.
        max_shift: most pixels by which a training drawing is moved along either axis.
        max_turn: most degrees by which it is turned either way.
        validation_alphabets: alphabets for validation.
        test_alphabets: alphabets for the test.
        eval_episodes: episodes drawn for one evaluation.
        data_root: folder of the data, unless MEMNETS_DATA names it.
        verify_checksum: refuse archives that differ from the published ones.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", *(f"accuracy_{instance}" for instance in INSTANCES))

    num_classes: int = 5
    num_examples: int = 10
    max_shift: int = 2
    max_turn: float = 15.0
    validation_alphabets: Sequence[str] = ("Tagalog",)
    test_alphabets: Sequence[str] = ("Japanese_(katakana)", "Sanskrit")
    eval_episodes: int = 512
    data_root: str | None = None
    verify_checksum: bool = True

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"Omniglot.num_classes must be at least 2, not {self.num_classes}")
        most = INSTANCES[-1]
        if self.num_examples < most:
            raise ValueError(
                f"Omniglot.num_examples must be at least {most}, not {self.num_examples}: "
                f"accuracy_{most} is of the {most}th drawing"
            )
        if not 0 <= self.max_shift < IMAGE_SIZE:
            raise ValueError(f"Omniglot.max_shift must be 0 to {IMAGE_SIZE - 1} pixels, not {self.max_shift}")
        if not 0 <= self.max_turn <= 45:
            raise ValueError(f"Omniglot.max_turn must be 0 to 45 degrees, not {self.max_turn}")
        if self.eval_episodes < 1:
            raise ValueError(f"Omniglot.eval_episodes must be at least 1, not {self.eval_episodes}")
        if both := set(self.validation_alphabets) & set(self.test_alphabets):
            raise ValueError(f"Omniglot: {sorted(both)} are among validation_alphabets and test_alphabets: keep one")

    @property
    def spec(self) -> Spec:
        """Pixels and the last label in, a logit per label out.

        Raises:
            DataError: the files are missing or malformed, or don't suffice for an episode.
        """
        _ = self._drawings  # so that missing files are told before anything is built
        return Spec("vectors", PIXELS + self.num_classes, self.num_classes)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """One label is right: they sum to 1."""
        return outputs.softmax(-1)

    @property
    def picture_size(self) -> tuple[int, int]:
        """That of a drawing."""
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def chance(self) -> dict[str, float]:
        """Any label is as likely as another."""
        return dict.fromkeys(self.metric_names, 1 / self.num_classes)

    def batch(self, split: Split, index: int, batch_size: int, seed: int) -> Batch:
        """Draw `batch_size` episodes; only training's are turned, mirrored and moved."""
        random = generator(seed, split, index)
        images = self._drawings[split]
        classes = distinct(random, (batch_size,), len(images), self.num_classes)
        examples = distinct(random, classes.shape, images.shape[1], self.num_examples).reshape(batch_size, -1)
        order = distinct(random, (batch_size,), examples.shape[1], examples.shape[1])
        labels = order // self.num_examples
        character, drawing = (
            np.take_along_axis(each, where, 1) for each, where in ((classes, labels), (examples, order))
        )
        pixels = as_tensor(images[character, drawing])
        if split == "train":
            pixels = seen_through(pixels, self._views(random, labels))
        return _episodes(pixels.flatten(2), as_tensor(labels), self.num_classes)

    def num_batches(self, split: Split, batch_size: int) -> int:
        """Return the batches in one evaluation."""
        return -(-self.eval_episodes // batch_size)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats, summed over drawings."""
        return class_loss(outputs, batch)

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Ratio]:
        """Share of drawings named right: of all, and of those that are the 1st, 2nd, 5th and 10th of their class."""
        assert batch.groups is not None
        right = (outputs.argmax(-1) == batch.targets.argmax(-1)).double()
        places = [batch.mask, *(batch.groups == instance for instance in INSTANCES)]
        return {name: ratio(right, where) for name, where in zip(self.metric_names, places, strict=True)}

    def oracle(self, batch: Batch) -> Tensor:
        """Name the nearest earlier drawing, in pixels; far from all, guess a label that is still free.

        It is right from a class's second drawing on where drawings of a character are alike; people's aren't.
        """
        drawings, labels = batch.inputs[..., :PIXELS], batch.inputs[:, 1:, PIXELS:]
        distances = torch.cdist(drawings, drawings[:, :-1])
        earlier = torch.ones_like(distances, dtype=torch.bool).tril(-1)
        named = earlier[..., None] & labels.bool()[:, None]
        nearest = torch.where(named, distances[..., None], torch.inf).amin(2)
        return -20.0 * nearest.where(nearest.isfinite(), NOVEL)

    @cached_property
    def _drawings(self) -> dict[Split, np.ndarray]:
        """Drawings of each split's characters, `[character, drawing, row, column]`."""
        root = data_root(self.data_root)
        characters = read_characters(root, self.verify_checksum)
        held_out = (*self.validation_alphabets, *self.test_alphabets)
        alphabets: dict[Split, Sequence[str]] = {
            "train": [name for name in dict.fromkeys(characters.alphabets) if name not in held_out],
            "validation": self.validation_alphabets,
            "test": self.test_alphabets,
        }
        return {split: self._of_alphabets(characters, split, names) for split, names in alphabets.items()}

    def _of_alphabets(self, characters: Characters, split: Split, names: Sequence[str]) -> np.ndarray:
        if unknown := sorted(set(names) - set(characters.alphabets)):
            there = ", ".join(dict.fromkeys(characters.alphabets))
            raise DataError(f"Omniglot: no alphabet {', '.join(unknown)} for {split}: there are {there}")
        images = characters.images[np.isin(characters.alphabets, names)]
        counts = {"num_classes": "characters", "num_examples": "drawings of each character"}
        for found, (name, what) in zip(images.shape, counts.items(), strict=False):
            if found < getattr(self, name):
                raise DataError(f"Omniglot: {split} has {found} {what}: too few for task.{name}={getattr(self, name)}")
        return images

    def _views(self, random: np.random.Generator, labels: np.ndarray) -> Float[Tensor, "batch time 2 3"]:
        """A quarter turn and a mirror for each class, a smaller turn and a shift for each drawing."""
        of_class = random.integers(0, len(LAID), (len(labels), self.num_classes))
        laid = LAID[np.take_along_axis(of_class, labels, 1)]
        angle = np.deg2rad(random.uniform(-self.max_turn, self.max_turn, (*labels.shape, 1, 1)))
        turn = np.cos(angle) * np.eye(2) + np.sin(angle) * QUARTER_TURN
        shift = random.integers(-self.max_shift, self.max_shift + 1, (*labels.shape, 2, 1)) * (2 / IMAGE_SIZE)
        return as_tensor(np.concatenate([laid @ turn, shift], axis=-1).astype(np.float32))


def seen_through(
    drawings: Float[Tensor, "batch time rows columns"], views: Float[Tensor, "batch time 2 3"]
) -> Float[Tensor, "batch time rows columns"]:
    """What is at each place of a drawing once `views` has turned and moved it; paper comes in from outside.

    A view maps places seen to places of the drawing, both from -1 to 1 and (right, down).
    """
    each = drawings.flatten(0, 1)[:, None]
    places = F.affine_grid(views.flatten(0, 1), list(each.shape), align_corners=False)
    return F.grid_sample(each, places, align_corners=False).view_as(drawings)


def _episodes(pixels: Float[Tensor, "batch time pixels"], labels: Int[Tensor, "batch time"], num_classes: int) -> Batch:
    """Inputs with the label of the step before, targets, and which drawing of its class each step shows."""
    targets = F.one_hot(labels, num_classes).float()
    last_label = F.pad(targets, (0, 0, 1, 0))[:, :-1]
    instance = targets.cumsum(1).gather(2, labels[..., None]).squeeze(2).long()
    inputs = torch.cat([pixels, last_label], dim=-1)
    return Batch(inputs, targets, torch.ones_like(labels, dtype=torch.bool), groups=instance)
