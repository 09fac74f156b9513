"""Product-key memory: against loops over single slots, its laws in a model, and its numbers of usage by hand."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import naive
import numpy as np
import pytest
import torch
from test_memory_transformer import tiny, tokens_of
from test_slots import BATCH, SIZES, steps_of, window_of
from torch.testing import assert_close

from memnets.config import build_model, compose
from memnets.contracts import Spec
from memnets.memory.slots.base import Gathered, Sizes
from memnets.memory.slots.integration import CrossAttention, GatedSum, JointSoftmax
from memnets.memory.slots.product_key import ProductKeyMemory
from memnets.models.memory_transformer import MemoryTransformer
from memnets.ops.backend import use_backend
from memnets.ops.product_key import product_key_address

DOUBLE = {"rtol": 1e-10, "atol": 1e-11}


def memory_of(sizes=SIZES, **options):
    torch.manual_seed(0)
    return ProductKeyMemory(sizes, **{"num_slots": 25, "top_k": 3, "num_heads": 2} | options).double()


def window_with(hidden):
    steps = steps_of(hidden.shape[1])
    return window_of(steps, 0, hidden.shape[1])._replace(hidden=hidden)


class TestMemory:
    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    def test_equals_loops_over_all_slots(self, backend):
        memory, hidden = memory_of(), torch.randn(BATCH, 3, SIZES.d_model).double()
        with use_backend(backend):
            reading = memory.read(window_with(hidden), ())
        linear, norm = (layer.state_dict() for layer in (memory.query, memory.norm))
        half_keys, values = memory.half_keys.detach().numpy(), memory.values.detach().numpy()
        for b, t in np.ndindex(BATCH, 3):
            asked = (hidden[b, t] @ linear["weight"].T + linear["bias"]).numpy().reshape(2, -1)
            expected = np.zeros(SIZES.d_model)
            for head, query in enumerate(asked):
                query = (query - query.mean()) / np.sqrt(query.var() + 1e-5)
                query = query * norm["weight"].numpy() + norm["bias"].numpy()
                keys = [np.concatenate([half_keys[head, 0, i], half_keys[head, 1, j]]) for i, j in np.ndindex(5, 5)]
                scores = [float(query @ key) for key in keys]
                best = sorted(range(25), key=lambda slot: -scores[slot])[:3]
                weights = naive.softmax([scores[slot] for slot in best])
                expected += sum(weight * values[slot] for weight, slot in zip(weights, best, strict=True))
                assert reading.indices[b, head, t].tolist() == best
                assert_close(reading.weights[b, head, t], torch.tensor(weights, dtype=torch.float64), **DOUBLE)
            assert_close(reading.vectors[b, :, t].flatten(), torch.from_numpy(expected), rtol=1e-6, atol=1e-8)

    def test_usage_by_hand(self):
        """Four slots: the first gets weights 1 and 1/2, the last 1/2; two stay idle."""
        memory = memory_of(num_slots=4, top_k=2, num_heads=1)
        weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], dtype=torch.float64)
        reading = Gathered(torch.zeros(1, 3, 2, 4), weights, torch.tensor([[[[0, 0], [3, 0]]]]))
        found = {name: (total / count).item() for name, (total, count) in memory.gauge(reading, ()).items()}
        divergence = 0.75 * math.log(0.75 * 4) + 0.25 * math.log(0.25 * 4)
        assert found == {"usage": 0.5, "usage_divergence": pytest.approx(divergence)}

    def test_divergence_at_its_ends(self):
        memory = memory_of(num_slots=4, top_k=1, num_heads=1)
        vectors, one = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 1)
        all_of_them = memory.gauge(Gathered(vectors, one, torch.arange(4).view(1, 1, 4, 1)), ())
        the_same = memory.gauge(Gathered(vectors, one, torch.full((1, 1, 4, 1), 2)), ())
        assert [each["usage_divergence"].total.item() for each in (all_of_them, the_same)] == [0, math.log(4)]
        assert [each["usage"].total.item() for each in (all_of_them, the_same)] == [4, 1]

    def test_model_gauges(self):
        model = tiny(partial(ProductKeyMemory, num_slots=49, top_k=3, num_heads=2), memory_layers=[1])
        found = {name: (total / count).item() for name, (total, count) in model.gauges(tokens_of()).items()}
        assert set(found) == {
            f"memory_1_{each}" for each in ("usage", "usage_divergence", "gate", "gate_spread", "entropy")
        }
        assert 3 / 49 <= found["memory_1_usage"] <= 1
        assert 0 < found["memory_1_usage_divergence"] < math.log(49)
        assert 0 < found["memory_1_entropy"] < math.log(3)

    def test_one_memory_serves_several_layers_in_one_pass(self):
        """Its gradients are the sums over layers, which ask it different things."""
        model = tiny(partial(ProductKeyMemory, num_slots=49, top_k=3, num_heads=2), share_memory=True)
        memory = model.memories["shared"]
        readings = []
        memory.register_forward_hook(lambda _, given, answer: readings.append(answer[0]))
        model(tokens_of(time=4))[0].square().sum().backward()
        assert len(readings) == 2
        assert not readings[0].indices.equal(readings[1].indices)
        chosen = torch.cat([reading.indices.flatten() for reading in readings]).unique()
        assert memory.values.grad.abs().sum(-1).nonzero().flatten().equal(chosen)

    @pytest.mark.parametrize("integration", [GatedSum, CrossAttention])
    def test_both_integrations_of_vectors(self, integration):
        model = tiny(partial(ProductKeyMemory, num_slots=49, top_k=3), integration=integration)
        model(tokens_of())[0].square().sum().backward()
        assert all(each.grad.abs().max() > 0 for each in model.memories.parameters())

    def test_a_query_is_asked_by_its_step_alone(self):
        """Neither rows nor steps are mixed, as they would by batch normalisation."""
        memory, hidden = memory_of(), torch.randn(BATCH, 3, SIZES.d_model).double()
        whole = memory.read(window_with(hidden), ()).vectors
        for b, t in product(range(BATCH), range(3)):
            alone = memory.read(window_with(hidden[b : b + 1, t : t + 1].expand(BATCH, -1, -1)), ()).vectors
            assert_close(alone[0, :, 0], whole[b, :, t])

    def test_scores_begin_of_size_one(self):
        memory = ProductKeyMemory(Sizes(64, 2, 32, 4, 2), num_slots=1024, top_k=32)
        rows = memory.norm(torch.randn(500, 4, 32))
        scores, _ = product_key_address(rows, memory.half_keys, 32)
        assert 2 < scores.mean() < 4  # the best 32 of 1024, were all normal, would be about 2.3 on average

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"num_slots": 24}, "a square number such as 16 or 25, not 24"),
            ({"num_slots": 0}, "a square number such as 1, not 0"),
            ({"num_slots": -4}, "a square number such as 1, not -4"),
            ({"top_k": 6}, r"top_k must be between 1 and 5, the root of num_slots=25, not 6"),
            ({"top_k": 0}, "top_k must be between 1 and 5"),
            ({"num_heads": 0}, "num_heads must be at least 1, not 0"),
            ({"key_size": 5}, "key_size must be an even number of at least 2, not 5"),
            ({"key_size": 0}, "key_size must be an even number of at least 2, not 0"),
        ],
    )
    def test_refuses_impossible_sizes(self, options, told):
        with pytest.raises(ValueError, match=told):
            memory_of(**options)

    def test_joint_softmax_is_refused(self):
        with pytest.raises(ValueError, match="ProductKeyMemory reads vectors"):
            tiny(ProductKeyMemory, integration=JointSoftmax)


def test_config_is_a_small_model():
    model = build_model(compose(["model=memory_transformer_product_key"]).config, Spec("tokens", 9, 9))
    assert isinstance(model, MemoryTransformer)
    assert list(model.memories) == ["1"]
    assert model.memories["1"].values.shape == (4096, 64)
