"""What the tokens of a text are: words of a vocabulary, or bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from memnets.contracts import Split
from memnets.tasks.text_files import Text

END, UNKNOWN = "<eos>", "<unk>"


class TokenTexts(NamedTuple):
    """Texts as token ids.

    Attributes:
        vocabulary: tokens by id.
        end: id of the token that ends a line.
        splits: each text's ids, `[tokens]`, in the smallest type that holds them.
    """

    vocabulary: tuple[str, ...]
    end: int
    splits: dict[Split, Shaped[Tensor, " tokens"]]


class Read(NamedTuple):
    """A piece of text as token ids, and its words that are none: these are read as `<unk>`."""

    ids: list[int]
    unknown: list[str]


class Tokens(ABC):
    """Turns texts into ids. Whatever is learned to do so comes from the training text alone."""

    @abstractmethod
    def read(self, text: str, vocabulary: tuple[str, ...]) -> Read:
        """Return a piece of a text as ids."""

    @abstractmethod
    def write(self, ids: list[int], vocabulary: tuple[str, ...]) -> str:
        """Return ids as a text."""

    @abstractmethod
    def encode(self, texts: dict[Split, Text]) -> TokenTexts:
        """Return the texts as ids.

        Raises:
            DataError: a text that can't be read so.
        """


@dataclass(frozen=True)
class Words(Tokens):
    """What stands between white space, and `<eos>` at the end of every line, empty ones too.

    Id 0 is `<eos>`, 1 `<unk>`, then come the training text's words, the most frequent first (in alphabetical order
    among equals). Any other word is `<unk>`, as input *and* as target, so that a small vocabulary makes low
    perplexities: compare at equal vocabularies only. A `<unk>` in the text, as WikiText-2 has, is the same word.

    Attributes:
        min_count: times a word must be in the training text.
        max_size: most ids there are, `<eos>` and `<unk>` among them; null for no limit.

    Raises:
        ValueError: no word could be left.
    """

    min_count: int = 1
    max_size: int | None = None

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"Words.min_count must be at least 1, not {self.min_count}")
        if self.max_size is not None and self.max_size < 3:
            raise ValueError(f"Words.max_size must be at least 3, for {END}, {UNKNOWN} and a word, not {self.max_size}")

    def encode(self, texts: dict[Split, Text]) -> TokenTexts:
        """Return the texts as ids of words."""
        vocabulary = self._vocabulary(Counter(_words(texts["train"].decode())))
        ids = {word: i for i, word in enumerate(vocabulary)}
        splits: dict[Split, Tensor] = {}
        for split, text in texts.items():
            numbers = (ids.get(word, ids[UNKNOWN]) for word in _words(text.decode()))
            splits[split] = torch.from_numpy(np.fromiter(numbers, np.int32))
        return TokenTexts(vocabulary, ids[END], splits)

    def read(self, text: str, vocabulary: tuple[str, ...]) -> Read:
        """Return the ids of its words, with `<eos>` at its line ends alone."""
        ids = {word: i for i, word in enumerate(vocabulary)}
        words = list(_words(text))[:-1]  # what comes next continues the last line
        words += [END] if text.endswith("\n") else []
        return Read([ids.get(word, ids[UNKNOWN]) for word in words], [word for word in words if word not in ids])

    def write(self, ids: list[int], vocabulary: tuple[str, ...]) -> str:
        """Return the words with blanks between, and line ends for `<eos>`."""
        lines = " ".join(vocabulary[i] for i in ids).split(END)
        return "\n".join(line.strip() for line in lines)

    def _vocabulary(self, counts: Counter[str]) -> tuple[str, ...]:
        known = [word for word, count in counts.items() if count >= self.min_count and word not in (END, UNKNOWN)]
        known.sort(key=lambda word: (-counts[word], word))
        return (END, UNKNOWN, *known)[: self.max_size]


@dataclass(frozen=True)
class Bytes(Tokens):
    """The bytes of the files, whatever they mean; a byte is its own id. There is none that is unknown."""

    def encode(self, texts: dict[Split, Text]) -> TokenTexts:
        """Return the texts as they are."""
        splits = {split: torch.frombuffer(bytearray(text.content), dtype=torch.uint8) for split, text in texts.items()}
        return TokenTexts(tuple(ascii(chr(byte))[1:-1] for byte in range(256)), ord("\n"), splits)

    def read(self, text: str, vocabulary: tuple[str, ...]) -> Read:
        """Return its UTF-8 bytes."""
        return Read(list(text.encode()), [])

    def write(self, ids: list[int], vocabulary: tuple[str, ...]) -> str:
        """Return the bytes as UTF-8; what isn't is shown as �."""
        return bytes(ids).decode(errors="replace")


def _words(text: str) -> Iterator[str]:
    for line in text.removesuffix("\n").split("\n"):
        yield from line.split()
        yield END
