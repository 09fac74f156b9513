"""A SAM's heads as the arguments of the sequence op."""

from __future__ import annotations

from torch import Tensor

from memnets.memory.access import Access
from memnets.memory.sam_access import SAMAccess
from memnets.models.fused import FusedSequence
from memnets.ops.sam_sequence import Result, SAMSequenceState, run_kernel
from memnets.ops.sequence import SequenceWeights


def obstacle(access: Access) -> str | None:
    """Return what the sequence op can't express, None if nothing: a subclass may compute something else."""
    return None if type(access) is SAMAccess else f"it has no {type(access).__name__}"


def _run(inputs: Tensor, state: SAMSequenceState, weights: SequenceWeights, access: SAMAccess) -> Result | None:
    return run_kernel(inputs, state, weights, access.scheme)


SAM_SEQUENCE = FusedSequence("sam_sequence", obstacle, SAMSequenceState, _run)
