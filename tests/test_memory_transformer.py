"""The Memory Transformer with every memory: laws that the contract in test_models.py leaves out, and what it learns."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import but_for_long
from tiny import ALONE
from torch.testing import assert_close

from memnets.config import build, check, compose, with_defaults
from memnets.contracts import Spec, map_tensors, named_tensors
from memnets.launch import make_trainer
from memnets.memory.slots.base import Memory, Sizes
from memnets.memory.slots.compressive import CompressiveMemory
from memnets.memory.slots.fast_weight import DeltaMemory
from memnets.memory.slots.knn import KNNMemory
from memnets.memory.slots.persistent import PersistentMemory
from memnets.memory.slots.product_key import ProductKeyMemory
from memnets.memory.slots.recurrent_tokens import RecurrentTokens
from memnets.memory.slots.segment_cache import SegmentCache
from memnets.memory.slots.test_time import NeuralMemory
from memnets.memory.slots.tokens import MemoryTokens
from memnets.models.base import trace
from memnets.models.memory_transformer import MemoryTransformer
from memnets.tasks.segmented_recall import SegmentedRecall
from memnets.training.logger import RunLogger

MEMORIES = {
    "null": None,
    "persistent": partial(PersistentMemory, num_slots=3),
    "tokens": partial(MemoryTokens, num_tokens=3),
    "recurrent_tokens": partial(RecurrentTokens, num_tokens=3),
    "short_segments": partial(RecurrentTokens, num_tokens=2, segment_length=3),
    "product_key": partial(ProductKeyMemory, num_slots=49, top_k=3, num_heads=2),
    "segment_cache": partial(SegmentCache, capacity=5),
    "segment_cache_differentiable": partial(SegmentCache, capacity=6, differentiable=True),
    "knn": partial(KNNMemory, capacity=5, top_k=2),
    "knn_age_key": partial(KNNMemory, capacity=5, top_k=2, age_key=True),
    "delta": DeltaMemory,
    "gated_delta": partial(DeltaMemory, gated=True),
    "compressive": CompressiveMemory,
    "neural": partial(NeuralMemory, hidden_size=5, chunk_size=3),
    "neural_linear": partial(NeuralMemory, hidden_size=None),
    "knn_detached": partial(KNNMemory, capacity=5, top_k=2, differentiable=False),
}
WINDOW, TIME, VOCABULARY = 4, 23, 11
sets_of_cuts = st.sets(st.integers(1, TIME - 1))
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES.keys())


def tiny(memory, **options):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "window": WINDOW, "feed_forward_size": 12}
    return MemoryTransformer(Spec("tokens", VOCABULARY, 5), memory=memory, **sizes | options).double()


def tokens_of(batch=3, time=TIME, seed=0):
    return torch.randint(VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(seed))


@every_memory
@pytest.mark.parametrize("layers", [None, [1]])
class TestLaws:
    @pytest.mark.parametrize("cuts", but_for_long([(1, WINDOW, 17), range(1, TIME)], lambda cuts: len(cuts) == 3))
    def test_any_cut_changes_nothing(self, memory, layers, cuts):
        model, inputs = tiny(memory, memory_layers=layers), tokens_of()
        whole, final = model(inputs)
        for cut in cuts:
            first, state = model(inputs[:, :cut])
            second, after = model(inputs[:, cut:], state)
            assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-12)
            assert after.position.equal(final.position)

    @settings(max_examples=3)
    @given(cuts=sets_of_cuts)
    def test_cuts_change_nothing(self, memory, layers, cuts):
        self.check_cuts(memory, layers, cuts)

    @pytest.mark.long
    @given(cuts=sets_of_cuts)
    def test_many_cuts_change_nothing(self, memory, layers, cuts):
        self.check_cuts(memory, layers, cuts)

    def check_cuts(self, memory, layers, cuts):
        model, inputs, state = tiny(memory, memory_layers=layers), tokens_of(), None
        outputs, edges = [], [0, *sorted(cuts), TIME]
        for first, last in pairwise(edges):
            output, state = model(inputs[:, first:last], state)
            outputs.append(output)
        assert_close(torch.cat(outputs, 1), model(inputs)[0], rtol=1e-9, atol=1e-12)

    def test_step_by_step_equals_the_whole(self, memory, layers):
        model, inputs = tiny(memory, memory_layers=layers), tokens_of()
        outputs, _ = trace(model, inputs)
        assert_close(outputs, model(inputs)[0], rtol=1e-9, atol=1e-12)

    def test_rows_begun_at_different_times_stay_apart(self, memory, layers):
        model, inputs, state = tiny(memory, memory_layers=layers), tokens_of(), None
        begins, outputs = {0: 0, 1: 9, 2: 17}, []
        for first, last in zip([0, 9, 17], [9, 17, TIME], strict=True):
            starts = torch.tensor([begins[row] == first for row in range(3)])
            state = model.initial_state(3) if state is None else model.restart(state, starts)
            output, state = model(inputs[:, first:last], state)
            outputs.append(output)
        outputs = torch.cat(outputs, 1)
        for row, begin in begins.items():
            alone, _ = model(inputs[row : row + 1, begin:])
            assert_close(outputs[row : row + 1, begin:], alone, rtol=1e-9, atol=1e-12)

    def test_later_tokens_are_not_seen(self, memory, layers):
        model, inputs, others = tiny(memory, memory_layers=layers), tokens_of(), tokens_of(seed=1)
        outputs, _ = model(inputs)
        cuts = range(1, TIME)
        changed, _ = model(torch.cat([torch.cat([inputs[:, :cut], others[:, cut:]], 1) for cut in cuts]))
        for cut, later in zip(cuts, changed.split(len(inputs)), strict=True):
            assert_close(later[:, :cut], outputs[:, :cut], rtol=1e-9, atol=1e-12)

    def test_every_parameter_gets_a_gradient(self, memory, layers):
        for left_out in ({}, {"feed_forward_size": None}, {"token_shift": None}):
            model = tiny(memory, memory_layers=layers, **left_out)
            outputs, _ = model(tokens_of())
            (outputs * torch.randn_like(outputs)).sum().backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, (left_out, name)
                assert parameter.grad.isfinite().all(), (left_out, name)
                assert parameter.grad.abs().max() > 0, (left_out, name)

    def test_saved_state_goes_on_bit_for_bit(self, memory, layers):
        model, inputs = tiny(memory, memory_layers=layers), tokens_of()
        _, state = model(inputs)
        saved = iter([tensor.clone() for tensor in named_tensors(state).values()])
        restored = map_tensors(lambda _: next(saved), model.initial_state(3))
        assert model(inputs, restored)[0].equal(model(inputs, state)[0])

    def test_bfloat16_stays_finite_and_keeps_the_state_float32(self, memory, layers):
        model = tiny(memory, memory_layers=layers).float()
        before = {name: tensor.dtype for name, tensor in named_tensors(model.initial_state(3)).items()}
        with torch.autocast("cpu", torch.bfloat16):
            outputs, state = model(tokens_of())
            again, _ = model(tokens_of(), state)
        (outputs.float().sum() + again.float().sum()).backward()
        assert again.isfinite().all()
        assert {name: tensor.dtype for name, tensor in named_tensors(state).items()} == before
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


class TestMemoryIsSeen:
    """Each memory changes the outputs where, and only where, it should."""

    @pytest.mark.parametrize("kind", ["persistent", "product_key", "tokens"])
    def test_learned_memory_reaches_every_step(self, kind):
        model = tiny(MEMORIES[kind], memory_layers=[0])
        owner = model.memory_tokens or model.memories["0"]
        before, _ = model(tokens_of())
        with torch.no_grad():
            for parameter in owner.parameters():
                parameter.add_(torch.randn_like(parameter))
        after, _ = model(tokens_of())
        assert ((after - before).abs().amax((0, 2)) > 1e-6).all()

    def test_tokens_pass_through_the_layers(self):
        """Seen by the upper layer alone, they still come by the lower one's weights."""
        model = tiny(MEMORIES["tokens"], memory_layers=[1], token_shift=None)
        before = model.memory_tokens.read(())
        first = model.blocks[0].pass_tokens(before)
        assert first.shape == before.shape
        outputs, _ = model(tokens_of())
        model.blocks[0].pass_tokens = lambda tokens: tokens
        assert not torch.allclose(model(tokens_of())[0], outputs)

    def test_tokens_are_seen_in_the_layers_named(self):
        outputs = [
            tiny(MEMORIES["tokens"], memory_layers=layers)(tokens_of())[0] for layers in ([0], [1], [0, 1], None)
        ]
        assert not torch.allclose(outputs[0], outputs[1])
        assert not torch.allclose(outputs[0], outputs[2])
        assert outputs[3].equal(outputs[2])

    @pytest.mark.parametrize("differentiable", [True, False])
    def test_written_memory_reaches_back_to_its_capacity(self, differentiable):
        """One layer, no shift: the last output sees window + capacity positions, and no more."""
        memory = partial(KNNMemory, capacity=6, top_k=6, differentiable=differentiable)
        model, inputs = tiny(memory, num_layers=1, token_shift=None), tokens_of(batch=1)
        outputs, _ = model(inputs)
        reached = []
        for step in range(TIME):
            changed = inputs.clone()
            changed[0, step] = (inputs[0, step] + 1) % VOCABULARY
            reached.append(bool((model(changed)[0][0, -1] - outputs[0, -1]).abs().max() > 1e-12))
        assert reached == [step >= TIME - WINDOW - 6 for step in range(TIME)]

    def test_nothing_else_is_built(self):
        assert not tiny(None).memories
        assert tiny(None, memory_layers=[0]).memory_tokens is None
        layered = tiny(MEMORIES["knn"], memory_layers=[1])
        assert list(layered.memories) == ["1"]
        assert layered.initial_state(2).layers[0].memory == ()
        everywhere = tiny(MEMORIES["persistent"])
        assert everywhere.memories["0"] is not everywhere.memories["1"]

    @pytest.mark.parametrize("layers", [[2], [-1], [0, 0]])
    def test_refuses_layers_that_are_not_there(self, layers):
        with pytest.raises(ValueError, match=r"memory_layers must be different numbers from 0 to 1"):
            tiny(MEMORIES["knn"], memory_layers=layers)

    def test_refuses_what_has_no_place(self):
        class Odd(Memory):
            def __init__(self, sizes: Sizes) -> None:
                super().__init__()

            def initial_state(self, batch_size: int) -> tuple[()]:
                return ()

        with pytest.raises(TypeError, match="a LayerMemory or a TokenMemory, not a Odd"):
            tiny(Odd)

    @pytest.mark.parametrize("sizes", [{"d_model": 15}, {"window": 0}, {"num_layers": 0}, {"num_heads": 0}])
    def test_refuses_impossible_sizes(self, sizes):
        with pytest.raises(ValueError, match="d_model must be a multiple of num_heads"):
            tiny(None, **sizes)


class TestReach:
    @pytest.mark.parametrize("options", [{}, {"token_shift": None}, {"num_layers": 3}])
    def test_receptive_field_is_exact(self, options):
        model, inputs = tiny(None, **options), tokens_of(batch=1, time=16)
        outputs, _ = model(inputs)
        reached = []
        for step in range(16):
            changed = inputs.clone()
            changed[0, step] = (inputs[0, step] + 1) % VOCABULARY
            reached.append(not model(changed)[0][0, -1].equal(outputs[0, -1]))
        assert reached == [step >= 16 - model.receptive_field for step in range(16)]

    @pytest.mark.parametrize("experiment", ["memory_transformer_recall", "memory_transformer_recall_without_memory"])
    def test_windows_of_the_experiments_do_not_reach_remote_pairs(self, experiment):
        built = build(compose([f"experiment={experiment}"]).config)
        # A field of n steps sees n - 1 steps back.
        assert built.model.receptive_field - 1 < built.task.remote_distance

    def test_experiments_differ_in_the_memory_alone(self):
        with_memory, without = (
            compose([f"experiment=memory_transformer_recall{suffix}"]).config for suffix in ("", "_without_memory")
        )
        assert with_memory["model"].pop("memory_layers") == [1]
        assert with_memory["model"].pop("memory")["_target_"] == "memnets.memory.slots.knn.KNNMemory"
        assert {**without, "name": None} == {**with_memory, "name": None}


def test_stream_of_segments_equals_whole_sequences():
    """Training that carries the state sees what the sequence would give at once."""
    stream, whole = SegmentedRecall(stream=True), SegmentedRecall()
    model = MemoryTransformer(whole.spec, memory=partial(KNNMemory, capacity=64)).double()
    expected, _ = model(whole.batch("train", 3, 2, seed=0).inputs)
    state, outputs = None, []
    for index in range(12, 16):
        batch = stream.batch("train", index, 2, seed=0)
        assert batch.starts.all() == (index == 12)
        output, state = model(batch.inputs, state)
        outputs.append(output)
    assert_close(torch.cat(outputs, 1), expected, rtol=1e-9, atol=1e-12)


RECALLS = ("", "_recurrent_tokens", "_delta", "_gated_delta", "_compressive")


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", ["transformer", *(f"memory_transformer{kind}" for kind in RECALLS)])
def test_recall_beyond_the_window_needs_the_memory(model, seed, tmp_path):
    overrides = ["experiment=transformer_recall", f"model={model}", f"seed={seed}", "logger.progress=none"]
    config = with_defaults(compose(overrides).config)
    check(config)
    experiment = build(config)
    trainer = make_trainer(experiment, tmp_path, RunLogger(tmp_path, experiment.logger, config), ALONE)
    trainer.fit()
    scores = trainer.evaluate(experiment.task, "test")
    assert scores["local_accuracy"] >= 0.95
    if model != "transformer":
        assert scores["remote_accuracy"] >= 0.95
        return
    batches = [experiment.task.batch("test", index, 64, 0) for index in range(experiment.task.num_batches("test", 64))]
    count, chance = sum(int((batch.groups == 2).sum()) for batch in batches), experiment.task.chance["remote_accuracy"]
    assert scores["remote_accuracy"] <= chance + 3 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("bptt_length", [None, 16])
def test_training_on_labelled_places_equals_training_on_all(bptt_length, tmp_path, monkeypatch):
    rows = {}
    for places in (True, False):
        monkeypatch.setattr(MemoryTransformer, "answers_places", places)
        overrides = ["experiment=memory_transformer_recall", "logger.progress=none", "trainer.max_steps=6"]
        more = ["trainer.log_every=2", "trainer.eval_every=3", "task.eval_sequences=32"]
        config = with_defaults(compose([*overrides, *more, f"trainer.bptt_length={bptt_length or 'null'}"]).config)
        check(config)
        experiment, folder = build(config), tmp_path / str(places)
        folder.mkdir()
        trainer = make_trainer(experiment, folder, RunLogger(folder, experiment.logger, config), ALONE)
        trainer.fit()
        rows[places] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows[True]) == len(rows[False]) > 4
    for one, other in zip(rows[True], rows[False], strict=True):
        assert one.pop("split") == other.pop("split")
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
