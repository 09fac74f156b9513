"""Triton kernels of addressing where the ops' cases don't lead: many slots, extremes, what must not be read."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import wrong
from test_triton import DEVICE, compared, results
from torch.testing import assert_close

from memnets.kernels.triton import content_address as content_kernel
from memnets.kernels.triton import launch
from memnets.ops.backend import use_backend
from memnets.ops.cases import Case
from memnets.ops.content_address import content_address, content_read
from memnets.ops.draw import Sizes
from memnets.ops.shift_sharpen import shift_sharpen


def both(op, *arguments):
    """Results and gradients of the kernel, and of the reference."""
    found = []
    for name in ("triton", "reference"):
        given = [value.detach().requires_grad_() if is_weight(value) else value for value in arguments]
        with use_backend(name):
            outputs = op(*given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum((out * torch.arange(out.numel(), device=DEVICE).reshape(out.shape)).sum() for out in outputs).backward()
        found.append([*(out.detach() for out in outputs), *(value.grad for value in given if is_weight(value))])
    return found


def is_weight(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def normal(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE, dtype)


class TestContent:
    @pytest.mark.parametrize("op", ["content_address", "content_read"])
    def test_blocks_grow_with_the_memory(self, op, monkeypatch):
        monkeypatch.setattr(launch, "TILE", 8)
        monkeypatch.setattr(content_kernel, "FEW_BLOCKS", 4)
        case = Case(op, "masked", Sizes(batch=2, heads=2, slots=71, word=3), "")
        got, want = (results(case, backend, torch.float64) for backend in ("triton", "reference"))
        assert_close(got, want, rtol=1e-10, atol=1e-11)

    def test_many_slots(self):
        """Several blocks, as at full size."""
        case = Case("content_read", "masked", Sizes(batch=1, heads=2, slots=700, word=20), "")
        assert wrong(*compared(case, torch.float32)) == {}

    @pytest.mark.parametrize("op", [content_address, content_read])
    def test_masked_slots_are_not_read(self, op):
        memory, mask = normal(2, 9, 5), torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.5
        holes = memory.masked_fill(~mask[:, :, None], torch.nan)
        strength = torch.full((2, 3), 2.0, dtype=torch.float64, device=DEVICE)
        got, _ = both(op, holes, normal(2, 3, 5), strength, mask)
        _, want = both(op, memory, normal(2, 3, 5), strength, mask)
        assert_close(got, want, rtol=1e-10, atol=1e-11)
        weights, d_memory = got[-4], got[-3]
        assert (weights.transpose(1, 2)[~mask] == 0).all()
        assert (d_memory[~mask] == 0).all()

    def test_large_scores_lose_no_weight(self):
        """Weights are a softmax's however high the scores: no sum of them passes through a logarithm."""
        memory, key = normal(1, 40, 4, dtype=torch.float32), normal(1, 2, 4, dtype=torch.float32)
        memory[:, :, 0] = 1e4
        with use_backend("triton"):
            weights = content_address(memory, key, torch.ones(1, 2, device=DEVICE), similarity="dot")
        assert_close(weights.sum(-1), torch.ones(1, 2, device=DEVICE), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("op", [content_address, content_read])
    def test_a_nan_shows(self, op):
        memory = normal(1, 5, 3)
        memory[0, 2, 1] = torch.nan
        with use_backend("triton"):
            found = op(memory, normal(1, 2, 3), torch.ones(1, 2, dtype=torch.float64, device=DEVICE))
        assert all(part.isnan().all() for part in (found if isinstance(found, tuple) else (found,)))


class TestLocation:
    @pytest.mark.parametrize("slots", [1, 2, 3, 5, 40])
    @pytest.mark.parametrize("width", [1, 5, 9])
    def test_any_width_at_any_number_of_slots(self, slots, width, monkeypatch):
        monkeypatch.setattr(launch, "TILE", 8)
        case = Case("shift_sharpen", "all", Sizes(batch=1, heads=2, slots=slots, width=width), "")
        got, want = (results(case, backend, torch.float64) for backend in ("triton", "reference"))
        assert_close(got, want, rtol=1e-10, atol=1e-11)

    def test_weights_below_zero_count_as_zero(self):
        """Gradients as well: none below, all at zero."""
        weights = torch.tensor([[[-0.5, 0.0, 0.7, 0.3, -0.0]]], dtype=torch.float64, device=DEVICE)
        sharpening = torch.tensor([[1.5]], dtype=torch.float64, device=DEVICE)
        got, want = both(shift_sharpen, weights, None, None, None, sharpening)
        assert_close(got, want, rtol=1e-10, atol=1e-11)
        assert want[1][0, 0, 0] == 0
        assert want[1][0, 0, 1] != 0

    def test_without_parts_weights_stay(self):
        weights = normal(2, 3, 5)
        got, want = both(shift_sharpen, weights, None)
        assert_close(got, want, rtol=0, atol=0)

    @pytest.mark.parametrize("sharpening", [1.0, 100.0, 1e4])
    def test_extreme_sharpening(self, sharpening):
        weights = normal(1, 2, 30).softmax(-1)
        weights[0, 0] = 0
        weights[0, 0, 4] = 1
        got, want = both(
            shift_sharpen,
            weights,
            None,
            None,
            normal(1, 2, 3).softmax(-1),
            torch.full_like(weights[..., 0], sharpening),
        )
        assert_close(got, want, rtol=1e-9, atol=1e-10)

    def test_a_nan_shows(self):
        weights = normal(1, 2, 5).softmax(-1)
        weights[0, 0, 2] = torch.nan
        with use_backend("triton"):
            found = shift_sharpen(weights, None, sharpening=torch.ones(1, 2, dtype=torch.float64, device=DEVICE))
        assert found[0, 0].isnan().all()
        assert found[0, 1].isfinite().all()
