"""What a model's own memory holds, as a Block: one contract for all that hand one out, and the same readers, metrics
and pictures for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from babi_example import task_in, write_babi
from test_models import BATCH, PAIRS, SPECS, as_double, build, disturb, inputs_of
from test_retrieval_reader import READING
from torch.testing import assert_close

from memnets.analysis.attention import attention, read_attention
from memnets.analysis.attention_page import attention_page
from memnets.contracts import Spec, Story, map_tensors
from memnets.memory.block import Block
from memnets.models.dnc import DNC
from memnets.models.memn2n import MemN2N
from memnets.models.ntm import NTM
from memnets.models.retrieval_reader import RetrievalReader
from memnets.models.sam import SAM
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.integration import CrossAttention
from memnets.retrieval.relevance import Oracle
from memnets.tasks.babi_vectors import BabiVectors
from memnets.tasks.people_qa import PeopleQA
from memnets.training.supporting import retrieved_facts
from memnets.training.trace import write_trace

SMALL = {"memory_size": 6, "word_size": 6}
SPEC = Spec("vectors", 4, 3)


def handed_out(model, inputs):
    torch.manual_seed(0)
    _, state = model(inputs)
    return model.block(inputs, state), state


def hands_one_out(pair):
    path, kind = pair.values
    return handed_out(build(path, kind).eval(), inputs_of(kind))[0] is not None


every_model = pytest.mark.parametrize(("path", "kind"), [pair for pair in PAIRS if hands_one_out(pair)])


@pytest.fixture
def model(path, kind):
    return disturb(build(path, kind)).double().eval()


@pytest.fixture
def babi(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return partial(task_in, write_babi(tmp_path))


@every_model
class TestContract:
    def test_shapes_and_weights(self, model, kind):
        block, _ = handed_out(model, as_double(inputs_of(kind)))
        batch, items, _ = block.vectors.shape
        assert isinstance(block, Block)
        assert batch == BATCH
        assert block.mask.shape == block.scores.shape == block.rows.shape == (BATCH, items)
        assert block.mask.dtype == torch.bool
        assert block.rows.dtype == torch.int64
        assert block.vectors.isfinite().all()
        assert (block.scores >= 0).all(), "weights of a read"
        assert (block.scores.sum(-1) <= 1 + 1e-9).all()
        assert block.scores.any(), "nothing was read"

    def test_rows_are_independent(self, model, kind):
        inputs, order = as_double(inputs_of(kind)), torch.tensor([2, 0, 1])
        block, _ = handed_out(model, inputs)
        permuted, _ = handed_out(model, map_tensors(lambda tensor: tensor[order], inputs))
        for name, one, two in zip(Block._fields, block, permuted, strict=True):
            assert one is two is None or torch.allclose(one[order].double(), two.double(), rtol=1e-9), name

    def test_an_integration_reads_it_and_gradients_reach_the_memory(self, model, kind):
        block, _ = handed_out(model, as_double(inputs_of(kind)))
        reader = CrossAttention(Spec("question", block.vectors.shape[2], 5), hidden_size=8).double()
        query = torch.randn(BATCH, block.vectors.shape[2]).double()
        if kind == "question":  # what was retrieved is no parameter: its weights are what the reader learned
            block = block._replace(vectors=block.vectors.requires_grad_())
        else:
            block.vectors.retain_grad()
        reader(query, block).square().sum().backward()
        reached = block.vectors.grad.abs().sum(-1) > 0
        assert reached.equal(block.mask)
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())

    def test_use_counts_what_there_is(self, model, kind):
        block, _ = handed_out(model, as_double(inputs_of(kind)))
        usage, entropy = block.use().values()
        assert (usage.total, usage.count) == (block.mask.sum(), block.mask.numel())
        assert 0 <= entropy.total <= entropy.count * math.log(block.mask.shape[1])


class TestMachines:
    @pytest.mark.parametrize("make", [NTM, DNC, SAM])
    def test_vectors_are_the_state_s_memory_and_nothing_is_copied(self, make):
        model = make(SPEC, **SMALL)
        block, state = handed_out(model, inputs_of("vectors"))
        assert block.vectors is state.access.memory
        assert block.rows.tolist() == [list(range(block.mask.shape[1]))] * BATCH

    def test_scores_are_the_last_read_s_weights_mean_over_heads(self):
        model = NTM(SPEC, **SMALL, num_read_heads=2)
        block, state = handed_out(model, inputs_of("vectors"))
        assert_close(block.scores, state.access.read_weights.mean(1))
        assert block.mask.all(), "an NTM does not know which slots were written"

    def test_a_read_of_a_dnc_or_sam_is_that_of_the_block(self):
        for model in (DNC(SPEC, **SMALL), SAM(SPEC, **SMALL, num_heads=1, top_k=2)):
            block, state = handed_out(model, inputs_of("vectors"))
            assert_close(torch.einsum("bn,bnw->bw", block.scores, block.vectors), state.read_vectors[:, 0])

    def test_a_dnc_masks_what_was_never_written(self):
        model = DNC(SPEC, **SMALL)
        nothing = model.block(None, model.initial_state(BATCH))
        assert not nothing.mask.any()
        access = model.initial_state(BATCH).access
        written = torch.nn.functional.one_hot(torch.tensor([0, 2, 5]), 6).float()
        access = access._replace(write_weights=written[:, None], usage=written.roll(1, 1) * 0.5)
        assert model.cell.access.held(access).equal(written.bool() | written.roll(1, 1).bool())

    def test_a_sam_hands_out_the_slots_it_touched(self):
        model = SAM(SPEC, **SMALL, num_heads=1, top_k=2)
        assert model.block(None, model.initial_state(BATCH)).vectors.shape == (BATCH, 0, 6)
        block, state = handed_out(model, inputs_of("vectors", time=1))
        assert block.vectors.shape[1] == state.access.memory.shape[1] < 6
        assert block.mask.equal((block.vectors != 0).any(-1))
        assert 0 < block.mask.sum(1).max() < block.mask.shape[1]

    @pytest.mark.parametrize("make", READING.values(), ids=READING)
    @pytest.mark.parametrize("model", [NTM, DNC, SAM])
    def test_every_integration_reads_them(self, make, model):
        """With tokens and values, which say answers; and an empty memory, as before the first step."""
        machine, spec = model(SPEC, **SMALL), Spec("question", 6, 4, answer_tokens=(1, 2, 3, 4), has_values=True)
        integration, query = make(spec), torch.randn(BATCH, 6)
        for state in (machine(inputs_of("vectors"))[1], machine.initial_state(BATCH)):
            block = machine.block(None, state)
            block = block._replace(tokens=block.rows % 4 + 1, values=block.rows % 4)
            outputs = integration(query, block)
            assert outputs.shape == (BATCH, 4)
            assert outputs.isfinite().all()


class TestMemN2N:
    @pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
    def test_weights_and_vectors_make_the_last_hop(self, tying):
        model, inputs = MemN2N(SPECS["story"], num_hops=2, weight_tying=tying), inputs_of("story")
        block = model.block(inputs)
        told = (inputs.story != 0).any(-1)
        assert block.mask.equal(told)
        assert not block.vectors[~told].any()
        assert_close(block.scores, model.attention(inputs)[:, -1])
        before = MemN2N(SPECS["story"], num_hops=1, weight_tying=tying)
        before.load_state_dict({k: v for k, v in model.state_dict().items() if "embeddings.2" not in k})
        query, asked = (each._hops(inputs, each._ages(inputs.story))[0] for each in (model, before))
        asked = asked if tying == "adjacent" else asked @ model.update.T
        assert_close(asked + torch.einsum("bn,bnd->bd", block.scores, block.vectors), query)

    def test_an_empty_story_is_an_empty_block(self):
        model, inputs = MemN2N(SPECS["story"]), inputs_of("story")
        usage, entropy = model.block(Story(torch.zeros_like(inputs.story), inputs.query)).use().values()
        assert usage.total == entropy.count == 0


class TestUse:
    def test_by_hand(self):
        mask = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
        scores = torch.tensor([[0.25, 0.25, 0.5, 0.0], [0.0] * 4, [1.0, 0, 0, 0]])
        usage, entropy = Block(torch.zeros(3, 4, 1), mask, scores, torch.zeros(3, 4).long()).use().values()
        assert (usage.total, usage.count) == (6, 12)
        assert entropy.total.item() == pytest.approx(math.log(2)), "halves of what lies on items, and one item alone"
        assert entropy.count == 2


class TestGold:
    def test_of_a_reader_it_is_that_of_its_attention(self):
        task = PeopleQA(num_people=12, num_validation_people=2, num_test_people=3, encoder=HashedEncoder(16))
        model, batch = RetrievalReader(task.spec), task.batch("test", 0, 18, 0)
        block = model.block(batch.inputs)
        by_block, by_attention = (
            retrieved_facts(weights, batch.supports)["attention_on_gold"]
            for weights in (block.scores[:, None], model.attention(batch.inputs))
        )
        assert_close(by_block.total / by_block.count, by_attention.total / by_attention.count)

    def test_a_slot_that_a_head_is_at_is_the_gold_one(self):
        """Of the in-model memories: the slots that were written when the fact was told are the gold ones."""
        model, inputs = NTM(SPEC, **SMALL), inputs_of("vectors")
        _, told = model(inputs[:, :2])
        block, _ = handed_out(model, inputs)
        gold = told.access.write_weights.sum(1) > 0.2
        total, count = retrieved_facts(block.scores[:, None], gold)["attention_on_gold"]
        assert total.item() == pytest.approx((block.scores * gold).sum().item())
        assert count == BATCH


def drawn(model, task, folder):
    questions = read_attention(write_trace(model.eval(), task, folder, torch.device("cpu")))
    assert attention(questions).axes
    assert questions[0].query in attention_page(questions, "run")
    return questions


class TestPictures:
    def test_of_a_reader_show_entries_with_the_weight_of_their_tokens(self, tmp_path):
        task = PeopleQA(
            num_people=12, num_validation_people=2, num_test_people=3, encoder=HashedEncoder(16), relevance=Oracle()
        )
        model = RetrievalReader(task.spec)
        questions = drawn(model, task, tmp_path)
        batch = task.batch("test", 0, 1, 0)
        weights = model.attention(batch.inputs)[0, 0]
        assert len(questions[0].story) == 5, "five facts of up to twelve tokens each"
        assert questions[0].supports == (0,)
        assert questions[0].answer in questions[0].story[0]
        np.testing.assert_allclose(questions[0].weights[0, 0], weights[batch.supports[0]].sum().item(), rtol=1e-5)
        np.testing.assert_allclose(questions[0].weights.sum(), 1, rtol=1e-5)
        assert not questions[0].query.endswith("?")

    def test_of_vectors_show_each_fact_and_nothing_retrieved_shows_nothing(self, tmp_path, babi):
        stories = babi()
        task = BabiVectors(data_root=stories.data_root, verify_checksum=False, encoder=HashedEncoder(16))
        model = RetrievalReader(task.spec, partial(CrossAttention, num_hops=2))
        questions = drawn(model, task, tmp_path)
        assert questions[1].story == (
            "daniel went to the hallway",
            "john moved to the garden",
            "daniel went to the garden",
        )
        assert questions[1].query == "where is daniel"
        assert questions[1].supports == (2,)
        assert questions[1].weights.shape == (2, 3)

    @pytest.mark.parametrize("make", [NTM, DNC, SAM])
    def test_of_a_machine_show_its_slots_at_the_answer(self, tmp_path, babi, make):
        task = replace(babi(), view="tokens")
        model = make(task.spec, **SMALL)
        questions = drawn(model, task, tmp_path)
        batch = task.batch("test", 0, 1, 0)
        block, _ = handed_out(model, batch.inputs)
        held = block.mask[0].nonzero().flatten().tolist()
        assert questions[0].story == tuple(f"slot {slot}" for slot in held)
        np.testing.assert_allclose(questions[0].weights[0], block.scores[0, held].detach(), rtol=1e-5)
        assert questions[0].query == "daniel went to the hallway where is daniel"
        assert questions[0].answer == "hallway"
        assert questions[0].supports is None


def test_those_that_hand_one_out():
    found = {pair.values[0].stem for pair in PAIRS if hands_one_out(pair)}
    assert {"ntm", "ntm_feedforward", "dnc", "dnc_mds", "sam", "mann", "memn2n", "reader_pointer"} <= found
    assert not {"lstm", "reader_closed_book", "entity_network"} & found
