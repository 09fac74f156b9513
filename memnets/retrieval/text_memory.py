"""What memories of texts share: an entry may say which class it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memnets.retrieval.entries import Entry, EntryError
from memnets.retrieval.row_memory import RowMemory
from memnets.retrieval.rows import listed


class TextMemory(RowMemory[Entry]):
    """A memory of texts."""

    entry_kind = Entry

    def _refuse(self, entries: Sequence[Entry]) -> None:
        wrong = [entry.id for entry in entries if entry.value < -1]
        if wrong:
            raise EntryError(f"the value of {listed(wrong)} is below -1: give a class of the task, or -1 for none")

    def _told(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        return {"values": torch.tensor([entry.value for entry in entries], dtype=torch.long)}
