"""A DNC's heads as the arguments of the sequence op, where they can say what its access computes."""

from __future__ import annotations

from torch import Tensor

from memnets.memory.access import Access
from memnets.memory.dnc_access import DNCAccess
from memnets.memory.dnc_addressing import Deallocation, DNCAddressing, KeyMask, LinkSharpening, TemporalLink
from memnets.models.fused import FusedSequence
from memnets.ops.dnc_sequence import DNCScheme, DNCSequenceState, Result, run_kernel
from memnets.ops.sequence import SequenceWeights

PARTS: tuple[type | None, ...] = (KeyMask, Deallocation, TemporalLink, LinkSharpening)


def obstacle(access: Access) -> str | None:
    """Return what the sequence op can't express, None if nothing.

    The rule: it serves this project's `DNCAccess`, with or without any of its four parts. A part replaced by another
    class, a subclass included, may compute something else.
    """
    if type(access) is not DNCAccess or type(access.addressing) is not DNCAddressing:
        return f"it has no {type(access).__name__} with {type(getattr(access, 'addressing', None)).__name__}"
    addressing = access.addressing
    parts = (addressing.mask, addressing.deallocation, addressing.link, addressing.link_sharpening)
    if other := [type(part).__name__ for part in parts if part is not None and type(part) not in PARTS]:
        return f"it has no {', '.join(other)}"
    return None


def scheme_of(addressing: DNCAddressing) -> DNCScheme:
    """Which parts of addressing there are."""
    return DNCScheme(
        mask=addressing.mask is not None,
        deallocation=addressing.deallocation is not None,
        link=addressing.link is not None,
        link_sharpening=addressing.link_sharpening is not None,
    )


def _run(inputs: Tensor, state: DNCSequenceState, weights: SequenceWeights, access: DNCAccess) -> Result | None:
    return run_kernel(inputs, state, weights, scheme_of(access.addressing))


DNC_SEQUENCE = FusedSequence("dnc_sequence", obstacle, DNCSequenceState, _run)
