"""An NTM's heads as the arguments of the sequence op, where they can say what its access computes."""

from __future__ import annotations

from torch import Tensor

from memnets.memory.access import Access
from memnets.memory.addressing import Addressing, Gate, Key, Sharpening, Shift, Strength
from memnets.memory.ntm_access import NTMAccess
from memnets.models.fused import FusedSequence
from memnets.ops.ntm_sequence import HeadScheme, NTMSequenceState, Result, run_kernel
from memnets.ops.sequence import SequenceWeights

PARTS: tuple[type | None, ...] = (Key, Strength, Gate, Shift, Sharpening, None)


def obstacle(access: Access) -> str | None:
    """Return what the sequence op can't express, None if nothing.

    The rule: it serves this project's `NTMAccess`, and any ablation of its five addressing parts. A part replaced by
    another class, a subclass included, may compute something else.
    """
    if type(access) is not NTMAccess or type(access.addressing) is not Addressing:
        return f"it has no {type(access).__name__} with {type(getattr(access, 'addressing', None)).__name__}"
    addressing = access.addressing
    parts = (addressing.key, addressing.strength, addressing.gate, addressing.shift, addressing.sharpening)
    if other := [type(part).__name__ for part in parts if part is not None and type(part) not in PARTS]:
        return f"it has no {', '.join(other)}"
    return None


def scheme_of(addressing: Addressing) -> HeadScheme:
    """Which parts of addressing there are."""
    return HeadScheme(
        similarity=addressing.key.similarity if addressing.key else None,
        strength=addressing.strength is not None,
        gate=addressing.gate is not None,
        shift_width=addressing.shift.width if addressing.shift else 0,
        sharpening=addressing.sharpening is not None,
    )


def _run(inputs: Tensor, state: NTMSequenceState, weights: SequenceWeights, access: NTMAccess) -> Result | None:
    return run_kernel(inputs, state, weights, scheme_of(access.addressing))


NTM_SEQUENCE = FusedSequence("ntm_sequence", obstacle, NTMSequenceState, _run)
