"""Tensors that grow by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Columns:
    """Named tensors over the same rows. Room for as many again is taken whenever they outgrow it.

    So the cost of growing, spread over all rows, is a constant each; room that isn't used yet is only an address.

    Args:
        tensors: the rows there are at first, which are copied; their dtypes and other axes stay.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.num_rows = 0
        self._room = {name: tensor.new_empty(0, *tensor.shape[1:]) for name, tensor in tensors.items()}
        first = next(iter(tensors.values()))
        self.put(range(len(first)), tensors)

    def __getitem__(self, name: str) -> Tensor:
        """Return a view of all rows."""
        return self._room[name][: self.num_rows]

    def all(self) -> dict[str, Tensor]:
        """Return views of all rows of all tensors."""
        return {name: self[name] for name in self._room}

    def reserve(self, num_rows: int) -> None:
        """Make room, so that rows up to this number can be put without failing."""
        for name, room in self._room.items():
            if len(room) < num_rows:
                wider = room.new_empty(2 * num_rows, *room.shape[1:])
                wider[: self.num_rows] = room[: self.num_rows]
                self._room[name] = wider

    def put(self, rows: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Set rows of every tensor. New rows must follow on those that are there."""
        needed = max(rows, default=-1) + 1
        self.reserve(needed)
        places = torch.tensor(rows, dtype=torch.long)
        for name, room in self._room.items():
            room[places] = values[name].to(room.dtype)
        self.num_rows = max(self.num_rows, needed)

    def clear(self, rows: Sequence[int]) -> None:
        """Set rows of every tensor to zero."""
        places = torch.tensor(rows, dtype=torch.long)
        for room in self._room.values():
            room[places] = 0
