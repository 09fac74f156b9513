"""Encodings kept on disk: a text is encoded once, whoever asks for it and however often."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memnets.files import data_root, write_synced
from memnets.retrieval.encoder import Encoded, Encoder

FOLDER = "cache/encodings"
"""Where encodings are kept below the data root."""


class Pack(NamedTuple):
    """Encodings of some texts, as a file holds them: token by token, text after text."""

    digests: Tensor  # [texts 32], sha256 of each text
    lengths: Tensor  # [texts], tokens
    vectors: Tensor  # [texts word]
    states: Tensor  # [all tokens, word]
    tokens: Tensor  # [all tokens]


class CachedEncoder:
    """Gives what `encoder` gives, and encodes only what isn't in the folder yet.

    ```
    FOLDER/<encoder's identity>/<sha256 of the file>.safetensors        the texts that one call found missing
    ```

    Of each text the file holds the sha256, not the words. A file is there whole or not at all, whoever else writes at
    the same time; one whose content doesn't match its name is taken away, and its texts are encoded anew. Where the
    folder can't be written there is a warning, and nothing is kept.

    Args:
        encoder: what encodes.
        folder: where encodings are kept; null: `cache/encodings` of the data root (MEMNETS_DATA).
    """

    def __init__(self, encoder: Encoder, folder: str | None = None) -> None:
        self.encoder = encoder
        self._known: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}
        self.folder = data_root(None) / FOLDER if folder is None else Path(folder).expanduser()

    @property
    def identity(self) -> str:
        """The encoder's: encodings are the same."""
        return self.encoder.identity

    @property
    def size(self) -> int:
        """Width of vectors and states."""
        return self.encoder.size

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Raises:
            ValueError: a text has nothing to encode, or an encoding is not finite.
        """
        if not texts:
            return self.encoder.encode(texts)
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        self._read(digests)
        if missing := {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in self._known}:
            self._encode(list(missing), list(missing.values()))
        found = [self._known[digest] for digest in digests]
        vectors, states, tokens = zip(*found, strict=True)
        padded = pad_sequence(list(tokens), batch_first=True)
        return Encoded(torch.stack(vectors), pad_sequence(list(states), batch_first=True), padded, padded > 0)

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token stands in the text."""
        return self.encoder.places(text)

    @cached_property
    def _unread(self) -> dict[bytes, Path]:
        """The file of every text that is kept and was not asked for yet, by the text's hash."""
        return {digest: path for path in sorted(self._place.glob("*.safetensors")) for digest in digests_of(path)}

    def _read(self, digests: Sequence[bytes]) -> None:
        """Read the files of some texts, where there are any: a folder may hold many more than are ever asked for."""
        wanted = {self._unread[digest] for digest in digests if digest in self._unread}
        for path in sorted(wanted):
            if (pack := read_pack(path)) is not None:
                self._known |= unpacked(pack)
        if wanted:
            self._unread = {digest: path for digest, path in self._unread.items() if path not in wanted}

    @property
    def _place(self) -> Path:
        return self.folder / self.identity

    def _encode(self, digests: list[bytes], texts: list[str]) -> None:
        """Encode what is missing, and keep it."""
        encoded = self.encoder.encode(texts)
        pack = Pack(
            torch.tensor([list(digest) for digest in digests], dtype=torch.uint8),
            encoded.mask.sum(1),
            encoded.vectors,
            encoded.states[encoded.mask],
            encoded.tokens[encoded.mask],
        )
        self._known.update(unpacked(pack))
        try:
            write_pack(self._place, pack)
        except OSError as error:
            warnings.warn(f"encodings are not kept: {self._place} can't be written ({error})", stacklevel=3)


def unpacked(pack: Pack) -> dict[bytes, tuple[Tensor, Tensor, Tensor]]:
    """Return vector, states and tokens of each text of a pack, by the text's hash."""
    lengths = pack.lengths.tolist()
    parts = zip(pack.digests, pack.vectors, pack.states.split(lengths), pack.tokens.split(lengths), strict=True)
    return {bytes(digest.tolist()): (vector, states, tokens) for digest, vector, states, tokens in parts}


def write_pack(folder: Path, pack: Pack) -> Path:
    """Write a pack to a file that is named by its content.

    Raises:
        OSError: the folder can't be written.
    """
    content = save({name: tensor.contiguous() for name, tensor in pack._asdict().items()})
    path = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path.name}.{os.getpid()}.partial"
    write_synced(aside, content)
    aside.replace(path)
    return path


def digests_of(path: Path) -> list[bytes]:
    """Return the hashes of a file's texts without reading the rest; none, with a warning, where it is no pack."""
    try:
        with safe_open(path, "pt") as file:
            return [bytes(digest) for digest in file.get_tensor("digests").tolist()]
    except FileNotFoundError:  # another process took it away
        return []
    except SafetensorError:
        discard(path)
        return []


def read_pack(path: Path) -> Pack | None:
    """Return a file's pack; None, with a warning and without the file, where it isn't what its name says."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.stem:
            return Pack(**load(content))
    except FileNotFoundError:  # another process took it away
        return None
    except (SafetensorError, TypeError):
        pass
    discard(path)
    return None


def discard(path: Path) -> None:
    """Take a damaged file away, with a warning."""
    warnings.warn(f"{path} is damaged, so its texts are encoded anew", stacklevel=3)
    path.unlink(missing_ok=True)
