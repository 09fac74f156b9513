"""How a reading meets the window: each rule against its definition, and what the gauges say of it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from test_memory_transformer import TIME, tiny, tokens_of
from test_slots import BATCH, HEADS, SIZES, WINDOW, WORD, steps_of, window_of
from torch.testing import assert_close

from memnets.contracts import Spec, named_tensors
from memnets.memory.attention_score import AdditiveScore
from memnets.memory.slots.base import Found, LayerMemory, Slots
from memnets.memory.slots.integration import CrossAttention, GatedSum, JointSoftmax, as_found, attend
from memnets.memory.slots.knn import KNNMemory
from memnets.memory.slots.persistent import PersistentMemory
from memnets.memory.slots.recurrent_tokens import RecurrentTokens
from memnets.memory.slots.segment_cache import SegmentCache
from memnets.memory.slots.tokens import MemoryTokens
from memnets.models.decoder import make_integration
from memnets.models.memory_transformer import MemoryTransformer

INTEGRATIONS = {
    "joint": JointSoftmax,
    "gated": GatedSum,
    "gated_additive": partial(GatedSum, score=AdditiveScore),
    "cross": CrossAttention,
    "cross_additive": partial(CrossAttention, score=AdditiveScore),
}
KINDS = {
    "persistent": partial(PersistentMemory, num_slots=3),
    "knn": partial(KNNMemory, capacity=5, top_k=2),
    "segment_cache": partial(SegmentCache, capacity=5, differentiable=True),
}
every_integration = pytest.mark.parametrize("integration", INTEGRATIONS.values(), ids=INTEGRATIONS.keys())
every_kind = pytest.mark.parametrize("memory", KINDS.values(), ids=KINDS.keys())


class Vectors(LayerMemory):
    """Answers each query with the values of its own steps: a memory that reads vectors."""

    reads = "vectors"

    def __init__(self, sizes):
        super().__init__()

    def initial_state(self, batch_size):
        return ()

    def read(self, window, state):
        return window.query


@pytest.fixture
def window():
    torch.manual_seed(0)
    return window_of(steps_of(9), 4, 7)


def slots_of(count=4, seen=None):
    return Slots(torch.randn(1, HEADS, count, WORD).double(), torch.randn(1, HEADS, count, WORD).double(), seen)


def weights_by_hand(window, slots, near):
    """Softmax over slots and, if `near`, the window, query by query; the slots' part and the window's."""
    scores = window.rotated_query @ slots.keys.mT
    if slots.visible is not None:
        scores = scores.masked_fill(~slots.visible[:, None], -torch.inf)
    if not near:
        return scores.softmax(-1).nan_to_num()
    local = (window.rotated_query @ window.rotated_keys.mT).masked_fill(~window.visible[:, None], -torch.inf)
    return torch.cat([scores, local], -1).softmax(-1)


class TestRules:
    @pytest.mark.parametrize("masked", [False, True])
    def test_joint_softmax_is_one_softmax(self, window, masked):
        slots = slots_of(seen=torch.rand(BATCH, 3, 4) < 0.5 if masked else None)
        weights = weights_by_hand(window, slots, near=True)
        values = torch.cat([slots.values.expand(BATCH, -1, -1, -1), window.values], dim=2)
        for reading in (slots, as_found(window, slots._replace(values=slots.values.expand(BATCH, -1, -1, -1)))):
            assert_close(JointSoftmax(SIZES)(window, reading), weights @ values)

    @pytest.mark.parametrize("integration", [GatedSum, CrossAttention])
    def test_a_score_of_its_own_does_not_go_with_an_age_key(self, integration):
        aged, join = KNNMemory(SIZES, age_key=True), partial(integration, score=AdditiveScore)
        with pytest.raises(ValueError, match=r"age_key weighs entries by their age.*leave one of them out"):
            make_integration(join, aged, SIZES)
        assert make_integration(join, KNNMemory(SIZES), SIZES).score is not None
        assert make_integration(integration, aged, SIZES).score is None

    @pytest.mark.parametrize("gate", [0.1, 0.9])
    def test_gated_sum_weights_two_softmaxes(self, window, gate):
        slots = slots_of()
        read = weights_by_hand(window, slots, near=False) @ slots.values
        expected = gate * read + (1 - gate) * attend(window)
        assert_close(GatedSum(SIZES, first_gate=gate).double()(window, slots).detach(), expected, rtol=1e-6, atol=1e-7)

    def test_gated_sum_of_vectors(self, window):
        expected = 0.25 * window.query + 0.75 * attend(window)
        assert_close(GatedSum(SIZES, first_gate=0.25).double()(window, window.query).detach(), expected)

    def test_cross_attention_reads_the_memory_alone(self, window):
        slots = slots_of()
        assert_close(CrossAttention(SIZES)(window, slots), weights_by_hand(window, slots, near=False) @ slots.values)

    @every_integration
    @pytest.mark.parametrize("found", [False, True])
    def test_a_query_to_which_nothing_is_told_has_the_window(self, window, integration, found):
        seen = torch.zeros(BATCH, 3, 4, dtype=torch.bool)
        seen[0, 1] = True
        slots = slots_of(seen=seen)
        reading = as_found(window, slots._replace(values=slots.values.expand(BATCH, -1, -1, -1))) if found else slots
        if found:
            reading = reading._replace(keys=slots.keys.expand(BATCH, -1, -1, -1))
        join = integration(SIZES).double()
        joined, alone = join(window, reading), attend(window)
        alone = torch.zeros_like(alone) if isinstance(join, CrossAttention) else alone
        assert_close(joined[1], alone[1])
        assert_close(joined[0, :, [0, 2]], alone[0, :, [0, 2]])
        assert not torch.allclose(joined[0, :, 1], alone[0, :, 1])

    def test_additive_score_weights_otherwise(self, window):
        slots = slots_of()
        plain, additive = GatedSum(SIZES).double(), GatedSum(SIZES, score=AdditiveScore).double()
        assert not torch.allclose(plain(window, slots), additive(window, slots))

    def test_one_softmax_needs_keys(self):
        with pytest.raises(ValueError, match="JointSoftmax needs keys and values, but Vectors reads vectors: choose"):
            tiny(Vectors, integration=JointSoftmax)
        assert isinstance(tiny(Vectors).blocks[0].attention.integration, GatedSum)
        assert isinstance(tiny(KINDS["knn"]).blocks[0].attention.integration, JointSoftmax)

    @pytest.mark.parametrize(
        ("memory", "options"), [(None, {}), (MemoryTokens, {}), (KINDS["knn"], {"memory_layers": []})]
    )
    def test_needs_a_memory_of_a_layer(self, memory, options):
        with pytest.raises(ValueError, match="integration joins a layer's memory to its window, but no layer has one"):
            tiny(memory, integration=GatedSum, **options)

    @pytest.mark.parametrize("first_gate", [0.0, 1.0, -1.0])
    def test_refuses_a_gate_that_cannot_move(self, first_gate):
        with pytest.raises(ValueError, match="first_gate must lie between 0 and 1"):
            GatedSum(SIZES, first_gate=first_gate)


@every_integration
@every_kind
class TestLaws:
    def test_any_cut_changes_nothing(self, memory, integration):
        model, inputs = tiny(memory, integration=integration), tokens_of()
        whole, _ = model(inputs)
        for cut in range(1, TIME, 3):
            first, state = model(inputs[:, :cut])
            second, _ = model(inputs[:, cut:], state)
            assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-12)

    def test_later_tokens_are_not_seen(self, memory, integration):
        model, inputs, others = tiny(memory, integration=integration), tokens_of(), tokens_of(seed=1)
        outputs, _ = model(inputs)
        cuts = range(1, TIME, 3)
        changed, _ = model(torch.cat([torch.cat([inputs[:, :cut], others[:, cut:]], 1) for cut in cuts]))
        for cut, later in zip(cuts, changed.split(len(inputs)), strict=True):
            assert_close(later[:, :cut], outputs[:, :cut], rtol=1e-9, atol=1e-12)

    def test_every_parameter_gets_a_gradient(self, memory, integration):
        model = tiny(memory, integration=integration)
        outputs, _ = model(tokens_of())
        (outputs * torch.randn_like(outputs)).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


class TestGroupedHeads:
    @pytest.mark.parametrize("memory", [None, KINDS["persistent"], KINDS["segment_cache"], RecurrentTokens])
    def test_equal_as_many_heads_with_the_same_keys(self, memory):
        """Four query heads on two of keys: the same as four, each two of which have the same weights."""
        torch.manual_seed(0)
        options = {"d_model": 16, "num_heads": 4, "window": 4, "memory": memory}
        grouped = MemoryTransformer(Spec("tokens", 11, 5), num_key_heads=2, **options).double()
        whole = MemoryTransformer(Spec("tokens", 11, 5), **options).double()
        weights = grouped.state_dict()
        for name, tensor in weights.items():
            if name.endswith("project.weight"):
                query, keys, values = tensor.split([16, 8, 8])
                weights[name] = torch.cat([query, twice(keys.view(2, 4, 16)), twice(values.view(2, 4, 16))])
            elif name.startswith("memories.") and tensor.shape[0] == 2:
                weights[name] = tensor.repeat_interleave(2, 0)
        whole.load_state_dict(weights)
        assert sum(p.numel() for p in grouped.parameters()) < sum(p.numel() for p in whole.parameters())
        assert_close(grouped(tokens_of())[0], whole(tokens_of())[0])

    @pytest.mark.parametrize("num_key_heads", [0, 3])
    def test_refuses_heads_that_cannot_share(self, num_key_heads):
        with pytest.raises(ValueError, match=f"num_heads one of num_key_heads.*num_key_heads={num_key_heads}"):
            tiny(None, num_heads=4, num_key_heads=num_key_heads)


class TestSharedMemory:
    def test_layers_have_one_memorys_weights(self):
        apart, shared = tiny(KINDS["persistent"]), tiny(KINDS["persistent"], share_memory=True)
        names = [name for name, _ in shared.named_parameters() if name.startswith("memories")]
        assert names == ["memories.shared.keys", "memories.shared.values"]
        assert len([name for name, _ in apart.named_parameters() if name.startswith("memories")]) == 4
        assert apart.state_dict().keys() >= {"memories.0.keys", "memories.1.keys"}

    def test_what_is_remembered_is_each_layers_own(self):
        model = tiny(KINDS["knn"], share_memory=True)
        _, state = model(tokens_of())
        first, second = (named_tensors(layer.memory)["keys"] for layer in state.layers)
        assert not torch.allclose(first, second)


class TestGauges:
    def test_equal_scores_have_the_entropy_of_the_count(self, window):
        even = Slots(torch.zeros(1, HEADS, 5, WORD).double(), torch.zeros(1, HEADS, 5, WORD).double())
        for join in (GatedSum(SIZES), CrossAttention(SIZES), JointSoftmax(SIZES)):
            total, count = join.gauge(window, even)["entropy"]
            assert float(total / count) == pytest.approx(math.log(5))

    def test_share_is_the_mass_in_the_memory(self, window):
        slots = slots_of()
        expected = weights_by_hand(window, slots, near=True)[..., :4].sum(-1).mean()
        total, count = JointSoftmax(SIZES).gauge(window, slots)["share"]
        assert float(total / count) == pytest.approx(expected.item())

    def test_nothing_found_counts_nowhere(self, window):
        nothing = as_found(window, slots_of(seen=torch.zeros(BATCH, 3, 4, dtype=torch.bool)))
        assert isinstance(nothing, Found)
        assert JointSoftmax(SIZES).gauge(window, nothing)["entropy"].count == 0

    def test_gates_tell_mean_and_spread(self, window):
        join = GatedSum(SIZES, first_gate=0.3)
        with torch.no_grad():
            join.gate[0] = 20.0
        gauges = join.gauge(window, window.query)
        gates = torch.tensor([1.0, 0.3, 0.3])
        assert float(gauges["gate"].total / gauges["gate"].count) == pytest.approx(gates.mean().item(), abs=1e-6)
        assert float(gauges["gate_spread"].total) == pytest.approx(gates.std(correction=0).item(), abs=1e-6)

    def test_models_tell_them_by_layer(self):
        model = tiny(KINDS["segment_cache"], integration=GatedSum, memory_layers=[1])
        assert model.gauges(tokens_of()).keys() == {
            "memory_1_usage", "memory_1_norm", "memory_1_gate", "memory_1_gate_spread", "memory_1_entropy"
        }  # fmt: skip
        assert model.gauges(tokens_of(time=WINDOW))["memory_1_usage"].total == 0
        assert tiny(None).gauges(tokens_of()) == {}
        assert not any(module._forward_hooks for module in model.modules()), "hooks are gone"

    def test_usage_is_what_left_the_window(self):
        model = tiny(KINDS["segment_cache"], memory_layers=[0])  # window 4, capacity 5
        total, count = model.gauges(tokens_of(time=6))["memory_0_usage"]
        # Chunks of 4 and 2 steps: after the first, 1 entry has left; after the second, 3.
        assert float(total / count) == pytest.approx((1 + 3) / 2 / 5)


def twice(heads):
    return heads.repeat_interleave(2, 0).flatten(0, 1)
