"""Texts as vectors by a pretrained Transformer of BERT's family, through the package `transformers`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from memnets.files import data_root, sha256
from memnets.retrieval.encoder import Encoded

ENCODERS = "encoders"
"""Folder of the data in which a name is looked for before the hub."""

NEEDED = ("config.json", "model.safetensors")
FILES = (*NEEDED, "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What is read of a folder, and fetched from the hub: all that an encoding depends on."""

LONG_WORK = 20
"""Batches from which on a terminal sees how far they have come."""


class EncoderError(ValueError):
    """The encoder can't be made: a package, a folder or a file is missing or of no use. Says which and what to do."""


class PretrainedEncoder:
    """Token states are the network's last; a text's vector is their mean, [CLS] and [SEP] among them, made unit length.

    As sentence-transformers pools (Reimers & Gurevych 2019, arXiv:1908.10084, section 3). Frozen. Nothing is loaded
    before something is encoded: a memory or a cache that holds all encodings needs no network.

    `name` is looked for as a folder, then as a folder below `encoders` of the data root (MEMNETS_DATA), then on the
    hub, where HF_HUB_OFFLINE=1 allows only what is in its cache.

    Args:
        name: a folder with `config.json`, `model.safetensors` and the tokenizer's files, or a name of the hub.
        max_tokens: tokens of a text that are seen, [CLS] and [SEP] among them; what follows is cut off.
        bfloat16: compute in bfloat16, which CPUs of the last years do faster; encodings are float32 all the same.
        batch_size: texts encoded at once. Texts of like length are put together; encodings don't hang on it, bar
            rounding.

    Raises:
        ValueError: max_tokens has no room for a word, or batch_size is not positive.
    """

    def __init__(
        self,
        name: str = "sentence-transformers/all-MiniLM-L6-v2",
        max_tokens: int = 128,
        bfloat16: bool = False,
        batch_size: int = 64,
    ) -> None:
        if max_tokens < 3 or batch_size < 1:
            raise ValueError(
                f"PretrainedEncoder needs max_tokens of at least 3 ([CLS], a word, [SEP]) and a positive batch_size, "
                f"not {max_tokens} and {batch_size}"
            )
        self.name, self.max_tokens, self.bfloat16, self.batch_size = name, max_tokens, bfloat16, batch_size

    @cached_property
    def folder(self) -> Path:
        """Where the files are.

        Raises:
            EncoderError: nowhere, or some are missing.
        """
        return find_folder(self.name)

    @cached_property
    def identity(self) -> str:
        """Hash of weights, tokenizer and settings.

        2: the names of special tokens in a text are words; what was encoded when they weren't is of another encoder.

        Raises:
            EncoderError: the files are missing.
        """
        digest = hashlib.sha256(f"PretrainedEncoder 2 {self.max_tokens} {self.bfloat16}".encode())
        for path in (self.folder / name for name in FILES):
            if path.exists():
                digest.update(f" {path.name} {sha256(path)}".encode())
        return digest.hexdigest()

    @cached_property
    def size(self) -> int:
        """Width of vectors and states.

        Raises:
            EncoderError: the files are missing or don't say it.
        """
        path = self.folder / "config.json"
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["hidden_size"])
        except (ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{path} tells no hidden_size ({error!r}): is this a model of BERT's family?") from None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Raises:
            EncoderError: the package `transformers`, or one of the files, is missing or of no use.
            ValueError: a text has nothing to encode, or an encoding is not finite.
        """
        if not texts:
            none = torch.zeros(0, 0, self.size)
            return Encoded(none.new_zeros(0, self.size), none, torch.zeros(0, 0).long(), torch.zeros(0, 0).bool())
        ids = self._tokens(texts)
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        for rows in self._batches(ids):
            for row, own in zip(rows, self._states([ids[row] for row in rows]), strict=True):
                states[row] = own
        vectors = torch.stack([normalize(own.mean(0), dim=0) for own in states])
        if not vectors.isfinite().all() or not vectors.any(-1).all():
            number = int((~(vectors.isfinite().all(-1) & vectors.any(-1))).nonzero()[0])
            raise ValueError(f"text {number}, {texts[number][:40]!r}, has no finite encoding by {self.name}")
        tokens = pad_sequence([torch.tensor(own) for own in ids], batch_first=True)
        return Encoded(vectors, pad_sequence(states, batch_first=True), tokens, tokens > 0)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in the text: text[start:end]; (0, 0) of [CLS] and [SEP].

        Raises:
            EncoderError: the package `transformers`, or one of the files, is missing or of no use.
        """
        settings = {**self._cut, "return_offsets_mapping": True}
        found: list[tuple[int, int]] = self._loaded[0](text, **settings)["offset_mapping"]
        return found

    @property
    def _cut(self) -> dict[str, Any]:
        """How texts become tokens. "[PAD]" or "[SEP]" in a text is words, not padding nor an end."""
        return {"truncation": True, "max_length": self.max_tokens, "split_special_tokens": True}

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self._loaded[0]
        ids: list[list[int]] = tokenizer(list(texts), **self._cut)["input_ids"]
        special = tokenizer.num_special_tokens_to_add()
        for number, (text, own) in enumerate(zip(texts, ids, strict=True)):
            if len(own) <= special:
                raise ValueError(f"text {number}, {text[:40]!r}, has no word to encode")
        return ids

    def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
        """Rows of texts of like length, the longest first, so that memory runs out at once or not at all."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        starts = range(0, len(ids), self.batch_size)
        shown = len(starts) >= LONG_WORK and sys.stderr.isatty()
        for start in track(starts, "encoding", console=Console(stderr=True), disable=not shown):
            yield order[start : start + self.batch_size]

    @torch.inference_mode()
    def _states(self, ids: list[list[int]]) -> list[Tensor]:
        """Return each text's states, `[time word]`, of as many tokens as it has."""
        tokens = pad_sequence([torch.tensor(own) for own in ids], batch_first=True)
        found = self._loaded[1](input_ids=tokens, attention_mask=(tokens > 0).long()).last_hidden_state.float()
        return [own[: len(each)].clone() for own, each in zip(found, ids, strict=True)]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and network."""
        return load(self.folder, torch.bfloat16 if self.bfloat16 else torch.float32)


def find_folder(name: str) -> Path:
    """Return the folder of an encoder: `name` itself, one of the data root, or what the hub holds of it.

    Raises:
        EncoderError: it is nowhere, or files are missing.
    """
    places = [Path(name).expanduser(), data_root(None) / ENCODERS / name]
    folder = next((place for place in places if place.is_dir()), None)
    folder = _from_hub(name, places) if folder is None else folder
    if missing := [file for file in NEEDED if not (folder / file).exists()]:
        raise EncoderError(f"{folder} has no {' and no '.join(missing)}: expected a model that save_pretrained wrote")
    return folder


def _from_hub(name: str, places: Sequence[Path]) -> Path:
    looked = "".join(f"\n  {place}" for place in places)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise EncoderError(
            f"no encoder {name!r}: no such folder:{looked}\nPut it there, or install 'memnets[retrieval]' to have it "
            f"from the Hugging Face hub"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # whatever the network, the hub or its cache may raise
        raise EncoderError(
            f"no encoder {name!r}: no such folder:{looked}\nand not from the hub: {' '.join(str(error).split())[:200]}"
        ) from error


def load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return tokenizer and network of a folder, for inference.

    Raises:
        EncoderError: the package is missing, the files are of no use, or padding is not token 0.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise EncoderError(
            f"a pretrained encoder needs the package transformers ({error}): pip install 'memnets[retrieval]'"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=dtype)
    except Exception as error:  # of transformers, tokenizers and safetensors, which have no common kind
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(f"{folder} can't be loaded ({type(error).__name__}: {reason})") from error
    if tokenizer.pad_token_id != 0:
        raise EncoderError(
            f"{folder} pads with token {tokenizer.pad_token_id}, and 0 means no token here: choose a model of BERT's "
            f"family"
        )
    return tokenizer, network.eval().requires_grad_(False)
