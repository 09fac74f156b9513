"""Addressing by location: interpolation, circular shift, sharpening (NTM paper, equations 7 to 9)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.ops import backend

EPSILON = 1e-16


def interpolate(
    content_weights: Float[Tensor, "batch heads slots"],
    previous_weights: Float[Tensor, "batch heads slots"],
    gate: Float[Tensor, "batch heads"],
) -> Float[Tensor, "batch heads slots"]:
    """g · content + (1 - g) · previous (equation 7)."""
    return previous_weights + gate[:, :, None] * (content_weights - previous_weights)


def circular_shift(
    weights: Float[Tensor, "batch heads slots"], shift: Float[Tensor, "batch heads width"]
) -> Float[Tensor, "batch heads slots"]:
    """w'(i) = Σ_j shift(j) · w(i - offset(j)), slots wrapping around (equation 8).

    Entry j of `shift` moves by offset(j) = j - width // 2 slots, towards higher slots where positive.
    """
    width = shift.shape[-1]
    moved = [torch.roll(weights, j - width // 2, dims=-1) * shift[:, :, j, None] for j in range(width)]
    return torch.stack(moved).sum(0)


def sharpen(
    weights: Float[Tensor, "batch heads slots"], sharpening: Float[Tensor, "batch heads"], epsilon: float = EPSILON
) -> Float[Tensor, "batch heads slots"]:
    """w(i)^sharpening, renormalised (equation 9), as a softmax of sharpening · log(w + epsilon).

    The softmax can neither underflow to 0/0 nor lose the normalisation; it is computed in float32 at least, as 1e-16
    vanishes in bfloat16. Where all weights are far below epsilon the result is uniform.
    """
    wide = torch.promote_types(weights.dtype, torch.float32)
    logs = torch.log(weights.to(wide).clamp_min(0) + epsilon)
    return torch.softmax(sharpening.to(wide)[:, :, None] * logs, dim=-1).to(weights.dtype)


def shift_sharpen(
    content_weights: Float[Tensor, "batch heads slots"] | None,
    previous_weights: Float[Tensor, "batch heads slots"] | None,
    gate: Float[Tensor, "batch heads"] | None = None,
    shift: Float[Tensor, "batch heads width"] | None = None,
    sharpening: Float[Tensor, "batch heads"] | None = None,
) -> Float[Tensor, "batch heads slots"]:
    """Interpolate, shift, sharpen; a part that is None is left out.

    Without content weights the previous ones are taken, without a gate the content weights.

    Raises:
        ValueError: both weights are None, or a gate has only one of them to choose between.
        BackendError: the backend asked for by name can't serve the call.
    """
    if gate is not None and (content_weights is None or previous_weights is None):
        raise ValueError("a gate interpolates content_weights and previous_weights: give both, or gate=None")
    if content_weights is None and previous_weights is None:
        raise ValueError("shift_sharpen needs content_weights or previous_weights")
    given = (content_weights, previous_weights, gate, shift, sharpening)
    present = [tensor for tensor in given if tensor is not None]
    if backend.choose("shift_sharpen", {"triton": lambda: backend.triton_obstacle(*present)}) == "triton":
        from memnets.kernels.triton import shift_sharpen as kernel

        return kernel.shift_sharpen(*given)
    return shift_sharpen_reference(*given)


def shift_sharpen_reference(
    content_weights: Tensor | None,
    previous_weights: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    sharpening: Tensor | None,
) -> Tensor:
    """The parts in turn, in plain PyTorch."""
    weights = previous_weights if content_weights is None else content_weights
    assert weights is not None
    if gate is not None:
        assert previous_weights is not None
        weights = interpolate(weights, previous_weights, gate)
    if shift is not None:
        weights = circular_shift(weights, shift)
    if sharpening is not None:
        weights = sharpen(weights, sharpening)
    return weights
