"""The Memory Transformer's numbers, with every memory: what isn't finite, and models of low precision."""

from __future__ import annotations

import pytest
import torch
from test_memory_transformer import MEMORIES, TIME, tiny, tokens_of
from torch.testing import assert_close

from memnets.contracts import Spec
from memnets.models.memory_transformer import MemoryTransformer

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES.keys())


@every_memory
@pytest.mark.parametrize("layers", [None, [1]])
def test_a_row_begun_anew_forgets_what_is_not_finite(memory, layers):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "window": 4, "feed_forward_size": 12}
    model = MemoryTransformer(Spec("vectors", 3, 5), memory=memory, memory_layers=layers, **sizes).double()
    first, second = torch.randn(2, 2, TIME, 3, dtype=torch.float64)
    first[0, TIME - 3] = torch.nan
    _, state = model(first)
    again, _ = model(second, model.restart(state, torch.tensor([True, False])))
    assert_close(again[:1], model(second[:1])[0], rtol=1e-9, atol=1e-12)
    assert again.isfinite().all()


@every_memory
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_low_precision_stays_near_float64(memory, dtype):
    model = tiny(memory).to(dtype)
    outputs, state = model(tokens_of())
    again, _ = model(tokens_of(seed=1), state)
    exact = model.double()(torch.cat([tokens_of(), tokens_of(seed=1)], 1))[0]
    both = torch.cat([outputs, again], 1)
    assert both.dtype == dtype
    assert (both.double() - exact).abs().mean() < 0.05 * exact.abs().mean()
