"""The state that a batch begins with, where consecutive batches continue one another."""

from __future__ import annotations

from typing import Any

from memnets.contracts import Batch
from memnets.models.base import SequenceModel


def first_state(model: SequenceModel, carried: Any, batch: Batch) -> Any:
    """Return `carried`, the state after the batch before, with the rows that start at their beginning.

    None, so that the model makes its initial state, where all rows start or nothing is carried.
    """
    if carried is None or batch.starts is None or batch.starts.all():
        return None
    return model.restart(carried, batch.starts) if batch.starts.any() else carried
