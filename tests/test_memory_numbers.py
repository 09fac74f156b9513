"""The Memory Transformer's numbers, with every memory: what isn't finite, and models of low precision."""

from __future__ import annotations

import pytest
import torch
from test_memory_transformer import MEMORIES, TIME, tiny, tokens_of
from test_slots import BATCH, SIZES, WINDOW, pieces, steps_of, window_of
from tiers import but_for_long
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.memory.slots.segment_cache import SegmentCache
from memnets.models.memory_transformer import MemoryTransformer

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES.keys())


@every_memory
@pytest.mark.parametrize("layers", [None, [1]])
def test_a_row_begun_anew_forgets_what_is_not_finite(memory, layers):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "window": 4, "feed_forward_size": 12}
    model = MemoryTransformer(Spec("vectors", 3, 5), memory=memory, memory_layers=layers, **sizes).double()
    first, second = torch.randn(2, 2, TIME, 3, dtype=torch.float64)
    clean, _ = model(first)
    first[0, TIME - 3] = torch.nan
    spoilt, state = model(first)
    assert_close(spoilt[1], clean[1], msg="another row")
    assert_close(spoilt[0, : TIME - 3], clean[0, : TIME - 3], msg="before")
    again, _ = model(second, model.restart(state, torch.tensor([True, False])))
    assert_close(again[:1], model(second[:1])[0], rtol=1e-9, atol=1e-12)
    assert again.isfinite().all()


@every_memory
@pytest.mark.parametrize("dtype", but_for_long([torch.bfloat16, torch.float16], lambda dtype: dtype == torch.bfloat16))
def test_a_model_of_low_precision_stays_near_float64(memory, dtype):
    model = tiny(memory).to(dtype)
    outputs, state = model(tokens_of())
    again, _ = model(tokens_of(seed=1), state)
    exact = model.double()(torch.cat([tokens_of(), tokens_of(seed=1)], 1))[0]
    both = torch.cat([outputs, again], 1)
    assert both.dtype == dtype
    assert (both.double() - exact).abs().mean() < 0.05 * exact.abs().mean()


@every_memory
def test_every_memory_tells_its_norm_or_use(memory):
    told = {name: ratio.total / ratio.count for name, ratio in tiny(memory).gauges(tokens_of()).items()}
    assert [name for name in told if name.endswith(("_norm", "_usage"))] or memory is None
    assert all(value.isfinite() for value in told.values())


@pytest.mark.parametrize("time", [WINDOW, WINDOW + 2, WINDOW + 9])
def test_norm_of_a_segment_cache_is_that_of_what_it_holds(time):
    cache, steps = SegmentCache(SIZES, capacity=5).double(), steps_of(time)
    state = cache.initial_state(BATCH)
    for first, last in pieces(time, []):
        reading, state = cache(window_of(steps, first, last), state)
    gone = time - WINDOW + 1
    held = steps.values[:, :, max(gone - 5, 0) : gone].norm(dim=-1)
    norm = cache.gauge(reading, state)["norm"]
    assert float(norm.total / norm.count) == pytest.approx(float(held.mean()))
