"""Texts as the tokens a reader reads, and where in the text each of them stands."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from memnets.retrieval.pretrained_encoder import EncoderError, find_folder

PIECE = re.compile(r"\w+|[^\w\s]")


class Tokenized(NamedTuple):
    """A text's tokens, and the characters `text[start:end]` that each stands for."""

    tokens: tuple[int, ...]
    places: tuple[tuple[int, int], ...]


@runtime_checkable
class Tokenizer(Protocol):
    """0 is padding. `start` begins a sequence, `separator` ends its question and its passage, `mask` hides a token."""

    @property
    def size(self) -> int:
        """Tokens there are."""
        ...

    @property
    def start(self) -> int:
        """[CLS]."""
        ...

    @property
    def separator(self) -> int:
        """[SEP]."""
        ...

    @property
    def mask(self) -> int:
        """[MASK]."""
        ...

    def tokenize(self, text: str) -> Tokenized:
        """Tokens of a text, without special ones."""
        ...


class HashedTokenizer:
    """Words and marks in lower case, numbered by their hash: no file, no training, and some share a number.

    Args:
        size: numbers there are, four of them special.

    Raises:
        ValueError: size leaves no number for words.
    """

    start, separator, mask = 1, 2, 3

    def __init__(self, size: int = 4096) -> None:
        if size < 5:
            raise ValueError(f"HashedTokenizer.size must be at least 5, not {size}")
        self.size = size

    def tokenize(self, text: str) -> Tokenized:
        """Tokens of a text, without special ones."""
        found = list(PIECE.finditer(text))
        return Tokenized(tuple(self._number(each[0]) for each in found), tuple(each.span() for each in found))

    def _number(self, word: str) -> int:
        digest = hashlib.sha256(word.lower().encode()).digest()
        return 4 + int.from_bytes(digest[:8], "little") % (self.size - 4)


class PretrainedTokenizer:
    """The tokenizer of a pretrained encoder's folder, found as `PretrainedEncoder` finds it; loaded when first used.

    Args:
        name: a folder, one below `encoders` of the data root, or a name of the hub.

    Raises:
        EncoderError: when it is first used: the package `transformers` or the files are missing or of no use.
    """

    def __init__(self, name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
        self.name = name

    @property
    def size(self) -> int:
        """Tokens there are."""
        return len(self._loaded)

    @property
    def start(self) -> int:
        """[CLS]."""
        return int(self._loaded.cls_token_id)

    @property
    def separator(self) -> int:
        """[SEP]."""
        return int(self._loaded.sep_token_id)

    @property
    def mask(self) -> int:
        """[MASK]."""
        return int(self._loaded.mask_token_id)

    def tokenize(self, text: str) -> Tokenized:
        """Tokens of a text, without special ones; however long it is. "[SEP]" in a text is words."""
        settings = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
        found = self._loaded(text, **settings, verbose=False)
        return Tokenized(tuple(found["input_ids"]), tuple(map(tuple, found["offset_mapping"])))

    @cached_property
    def _loaded(self) -> Any:
        folder = find_folder(self.name)
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise EncoderError(
                f"a pretrained tokenizer needs the package transformers ({error}): pip install 'memnets[retrieval]'"
            ) from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        except Exception as error:  # of transformers and tokenizers, which have no common kind
            reason = " ".join(str(error).split())[:300]
            raise EncoderError(f"{folder} can't be loaded ({type(error).__name__}: {reason})") from error
        if tokenizer.pad_token_id != 0 or not tokenizer.is_fast:
            raise EncoderError(
                f"{folder} needs a fast tokenizer that pads with token 0: choose a model of BERT's family"
            )
        return tokenizer
