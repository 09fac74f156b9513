"""Less memory for time: what happens within a sequence is computed again when its gradient is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from memnets.ops.backend import current_backend, use_backend

Run = Callable[[Tensor, Any], tuple[Tensor, Any]]


def recomputed(run: Run) -> Run:
    """`run(inputs, state) -> (features, state)` in about √T pieces of √T steps each, T being the inputs' second axis.

    For the backward pass it keeps the states between pieces only, and runs each piece a second time: about a third
    more arithmetic, and √T instead of T steps' memory (Chen et al. 2016, arXiv:1604.06174). Results are the same.
    """

    def run_in_pieces(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        if not torch.is_grad_enabled():
            return run(inputs, state)
        backend, features = current_backend(), []

        def run_alike(piece: Tensor, state: Any) -> tuple[Tensor, Any]:
            with use_backend(backend):  # also in the backward pass, when the caller's choice may be over
                return run(piece, state)

        for piece in inputs.split(math.ceil(math.sqrt(inputs.shape[1])), dim=1):
            piece_features, state = checkpoint(run_alike, piece, state, use_reentrant=False)
            features.append(piece_features)
        return torch.cat(features, dim=1), state

    return run_in_pieces
