"""Texts as vectors: the contract of encoders, and one that needs no training and no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from memnets.retrieval.words import WORD, words


class Encoded(NamedTuple):
    """What an encoder makes of texts.

    Attributes:
        vectors: one per text, of length 1.
        states: one per token; zeros where there is none.
        tokens: their numbers in the encoder's vocabulary, from 1; 0 where there is none.
        mask: where there is a token.
    """

    vectors: Float[Tensor, "texts word"]
    states: Float[Tensor, "texts time word"]
    tokens: Int[Tensor, "texts time"]
    mask: Bool[Tensor, "texts time"]


@runtime_checkable
class Encoder(Protocol):
    """Frozen: the same text has the same encoding, whatever it is encoded with and whenever.

    A memory that was made with one encoder is refused by others: they are told apart by `identity`.
    """

    @property
    def identity(self) -> str:
        """Hash of all that an encoding depends on: weights and settings."""
        ...

    @property
    def size(self) -> int:
        """Width of vectors and states."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts, in their order, without gradients, on the CPU.

        Raises:
            ValueError: a text has nothing to encode, or an encoding is not finite.
        """
        ...

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token that `encode` gives stands in the text: text[start:end]; (0, 0) of one such as [CLS]."""
        ...


class NoEncoder:
    """For memories whose entries are found by their words, ids or edges: vectors of width 0, which tell nothing."""

    identity = hashlib.sha256(b"NoEncoder 1").hexdigest()
    size = 0

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Give each text a vector without numbers, and no token."""
        none = torch.zeros(len(texts), 0)
        return Encoded(none, none[..., None], none.long(), none.bool())

    def places(self, text: str) -> list[tuple[int, int]]:
        """No token."""
        return []


NO_ENCODER = NoEncoder()


class HashedEncoder:
    """Each word is a fixed random direction that its hash decides; a text's vector is the mean of its words'.

    Texts are near where they share words, so it serves tests and runs without a download. It knows no word order and
    no likeness of words. The same on every machine.

    Args:
        size: width of vectors and states.
        seed: another seed, other directions.
        max_tokens: words of a text that are seen; what follows is cut off.

    Raises:
        ValueError: size or max_tokens is not positive.
    """

    def __init__(self, size: int = 64, seed: int = 0, max_tokens: int = 512) -> None:
        if size < 1 or max_tokens < 1:
            raise ValueError(f"HashedEncoder needs a positive size and max_tokens, not {size} and {max_tokens}")
        self.size, self.seed, self.max_tokens = size, seed, max_tokens
        self.identity = hashlib.sha256(f"HashedEncoder 1 {size} {seed} {max_tokens}".encode()).hexdigest()
        self._known: dict[str, tuple[int, Tensor]] = {}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Raises:
            ValueError: a text has no word.
        """
        split = [words(text)[: self.max_tokens] for text in texts]
        for number, (text, own) in enumerate(zip(texts, split, strict=True)):
            if not own:
                raise ValueError(f"text {number}, {text[:40]!r}, has no word to encode")
        if not split:
            none = torch.zeros(0, 0, self.size)
            return Encoded(none.new_zeros(0, self.size), none, torch.zeros(0, 0).long(), torch.zeros(0, 0).bool())
        known = [[self._word(word) for word in own] for own in split]
        tokens = pad_sequence([torch.tensor([number for number, _ in own]) for own in known], batch_first=True)
        states = pad_sequence([torch.stack([direction for _, direction in own]) for own in known], batch_first=True)
        return Encoded(normalize(states.sum(1), dim=-1), states, tokens, tokens > 0)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each word stands in the text: text[start:end]."""
        origin = [place for place, letter in enumerate(text) for _ in letter.lower()]  # "İ" becomes two
        found = WORD.finditer(text.lower())
        return [(origin[word.start()], origin[word.end() - 1] + 1) for word in found][: self.max_tokens]

    def _word(self, word: str) -> tuple[int, Tensor]:
        """A word's number, of 62 bits, and its direction."""
        if word not in self._known:
            drawn = hashlib.shake_256(f"{self.seed} {word}".encode()).digest(8 + 4 * self.size)
            number = 1 + int.from_bytes(drawn[:8], "little") // 4
            direction = np.frombuffer(drawn, "<u4", offset=8).astype(np.float64) + 0.5 - 2.0**31
            self._known[word] = number, normalize(torch.from_numpy(direction), dim=0).float()
        return self._known[word]
