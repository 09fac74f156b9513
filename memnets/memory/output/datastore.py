"""kNN-LM: states of a whole text that were like the present one (Khandelwal et al. 2020, arXiv:1911.00172)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from memnets.files import sha256, write_atomic
from memnets.memory.output.base import OutputMemory, Recalled
from memnets.memory.output.nearest import nearest

ENTRIES, FACTS = "datastore.safetensors", "datastore.json"


class DatastoreError(Exception):
    """A datastore that can't be used. The message says which, why, and what to do."""


class Datastore(OutputMemory):
    """Entries that are given once and never change; a step recalls the `k` nearest, which score -|h_t - h_i|².

    `strength` is one over the paper's temperature. Search is exact, and compares every step with every entry, unless it
    looks into few of FAISS's cells, as the paper does. A text must not be measured with a datastore of its own: each
    step would find itself.

    Args:
        keys: what the model's head read.
        words: what followed.
        k: entries recalled.
        num_probes: cells that are looked into (`ApproximateNearest`); None: search is exact.

    Raises:
        ValueError: k is not between 1 and the number of entries, or a key is not finite.
        ImportError: approximate search without FAISS.
    """

    def __init__(
        self,
        keys: Float[Tensor, "entries hidden"],
        words: Int[Tensor, " entries"],
        k: int = 64,
        num_probes: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= k <= len(keys):
            raise ValueError(f"Datastore.k must be between 1 and the number of entries, {len(keys)}, not {k}")
        if not all(block.isfinite().all() for block in keys.split(65_536)):
            raise ValueError("a datastore's keys must be finite: the model that made them overflows")
        self.k = k
        self.register_buffer("keys", keys)
        self.register_buffer("words", words)
        self._search: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None
        if num_probes is not None:
            from memnets.memory.output.approximate import ApproximateNearest  # needs FAISS

            self._search = ApproximateNearest(keys, num_probes)

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Nothing: entries are not a text's."""
        return ()

    def read(self, hidden: Float[Tensor, "batch time hidden"], state: tuple[()]) -> Recalled:
        """The nearest entries of every step."""
        asked = rearrange(hidden, "b t w -> (b t) w")
        distances, places = self._exact(asked) if self._search is None else self._search(asked, self.k)
        words = self.get_buffer("words")[places].long()
        split = {"b": hidden.shape[0], "t": hidden.shape[1]}
        return Recalled(*(rearrange(part, "(b t) k -> b t k", **split) for part in (-distances, words)))

    def forward(
        self, hidden: Float[Tensor, "batch time hidden"], words: Int[Tensor, "batch time"], state: tuple[()]
    ) -> tuple[Recalled, tuple[()]]:
        """All steps at once, as none changes what another finds."""
        return self.read(hidden, state), state

    def search_recall(self, hidden: Float[Tensor, "queries hidden"]) -> float:
        """Share of the k nearest that search finds: 1 where it is exact."""
        if self._search is None:
            return 1.0
        farthest = self._exact(hidden)[0][:, -1:]
        return float((self._search(hidden, self.k)[0] <= farthest * (1 + 1e-4)).double().mean())  # rounding is no miss

    def _exact(self, asked: Float[Tensor, "queries hidden"]) -> tuple[Tensor, Tensor]:
        return nearest(asked, self.get_buffer("keys"), self.k)

    def save(self, folder: Path, origin: dict[str, Any]) -> None:
        """Write the entries, then their checksum and origin: what `load` must be asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS).unlink(missing_ok=True)
        save_file({name: self.get_buffer(name).cpu().contiguous() for name in ("keys", "words")}, folder / ENTRIES)
        facts = {"origin": origin, "sha256": sha256(folder / ENTRIES)}
        write_atomic(folder / FACTS, json.dumps(facts, indent=1))

    @staticmethod
    def load(folder: Path, origin: dict[str, Any], k: int, num_probes: int | None = None) -> Datastore:
        """Read the entries that were saved with this very origin.

        Raises:
            DatastoreError: they are damaged, or come from other weights or another text.
            ValueError: there are fewer than k.
        """
        advice = f"Remove the folder {folder} to have it built anew."
        try:
            facts = json.loads((folder / FACTS).read_text())
            checksum = sha256(folder / ENTRIES)
        except (OSError, ValueError) as error:
            raise DatastoreError(f"{folder} is no whole datastore ({error}). {advice}") from error
        if checksum != facts["sha256"]:
            raise DatastoreError(f"{folder / ENTRIES} is damaged: its checksum is not the one in {FACTS}. {advice}")
        differing = [name for name in origin if facts["origin"].get(name) != origin[name]]
        if differing:
            raise DatastoreError(f"{folder} was built from other {' and '.join(differing)} than asked for. {advice}")
        return Datastore(**load_file(folder / ENTRIES), k=k, num_probes=num_probes)
