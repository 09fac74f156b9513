"""PeopleQA: who is asked about, what is retrieved, what is edited, and what retrieval metrics say."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from memnets.memory.block import Block
from memnets.retrieval.answer_tokens import answer_tokens
from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.lexical import BM25
from memnets.retrieval.relevance import Oracle, Random
from memnets.retrieval.selection import All, TopK
from memnets.retrieval.sequence_memory import SequenceMemory
from memnets.retrieval.vector_memory import VectorMemory
from memnets.tasks.base import generator
from memnets.tasks.people_facts import ANSWERS
from memnets.tasks.people_qa import PeopleQA, asked_facts, edits_of, facts_of, memory_of
from memnets.training.supporting import retrieved_facts

SMALL = {"num_people": 30, "num_validation_people": 4, "num_test_people": 10}


@pytest.fixture(scope="module")
def task():
    return PeopleQA(**SMALL, relevance=BM25(), encoder=HashedEncoder(16))


def everything(task, split="test"):
    return task.batch(split, 0, len(asked_facts(task, split)), 0)


def in_order(task, split="test"):
    """Facts in the order in which `everything` asks for them."""
    facts = asked_facts(task, split)
    return [facts[i] for i in generator(0, split, 0).permutation(len(facts)).tolist()]


def texts(task, block, row):
    return [task_entry.text for task_entry in map(memory_of(task).entry, block.rows[row, block.mask[row]].tolist())]


class TestPeople:
    def test_splits_ask_about_different_people(self, task):
        asked = {
            split: {fact.id.split("/")[0] for fact in asked_facts(task, split)}
            for split in ("train", "validation", "test")
        }
        assert {split: len(people) for split, people in asked.items()} == {"train": 16, "validation": 4, "test": 10}
        assert len(set.union(*asked.values())) == 30

    def test_an_epoch_asks_everything_once(self, task):
        batches = [task.batch("train", index, 16, seed=3) for index in range(task.num_batches("train", 16))]
        targets = torch.cat([batch.targets for batch in batches]).tolist()
        assert sorted(targets) == sorted(fact.value for fact in asked_facts(task, "train"))

    def test_too_few_people(self):
        with pytest.raises(ValueError, match=r"num_people=120 leaves nobody to train on beside 20 .* and 100"):
            PeopleQA(num_people=120)
        with pytest.raises(ValueError, match="needs at least 1"):
            PeopleQA(num_validation_people=0)
        with pytest.raises(ValueError, match="names for 3840 people"):
            PeopleQA(num_people=4000)

    def test_no_further_batch(self, task):
        with pytest.raises(IndexError, match="test has 6 batches, none number 6"):
            task.batch("test", 6, 10, 0)


class TestRetrieval:
    def test_supports_are_the_tokens_of_the_fact_asked_for(self, task):
        batch = everything(replace(task, relevance=Oracle()))
        memory = memory_of(task)
        for row, fact in enumerate(in_order(task)):
            support = batch.supports[row]
            assert set(batch.inputs.block.rows[row, support].tolist()) == {memory.row(fact.id)}
            assert support.sum() == len(fact.text.split())
            assert set(batch.inputs.block.values[row, support].tolist()) == {fact.value}

    def test_best_facts_stand_first(self, task):
        batch = everything(task)
        memory, facts = memory_of(task), in_order(task)
        queries_scores = BM25().scores(memory, _queries(facts))
        first = queries_scores.gather(1, batch.inputs.block.rows[:, :1]).squeeze(1)
        assert first.equal(queries_scores.amax(1))
        assert (batch.inputs.block.scores[:, 0] >= batch.inputs.block.scores[:, 12]).all()

    def test_scores_have_unit_spread_over_training_questions(self, task):
        batch = everything(replace(task, selection=All()), "train")
        block = batch.inputs.block
        each = block.scores.unflatten(1, (-1, 12))[:, :, 0]  # one token of each fact
        assert each.std().item() == pytest.approx(1, abs=1e-5)

    def test_recall_counts_questions_whose_fact_is_there(self, task):
        def recall(relevance, k):
            batch = everything(replace(task, relevance=relevance, selection=TopK(k)))
            total, count = retrieved_facts(None, batch.supports)["recall"]
            assert count == 60
            return float(total / count)

        assert recall(Oracle(), 1) == 1
        assert recall(Random(), 5) < 0.2
        assert 0.3 < recall(BM25(), 1) < recall(BM25(), 10) <= 1

    def test_a_memory_of_vectors_gives_no_tokens(self, task):
        vectors = replace(task, memory=VectorMemory)
        assert vectors.spec.answer_tokens == ()
        assert vectors.spec.has_values
        block = everything(vectors).inputs.block
        assert block.vectors.shape == (60, 5, 16)
        assert block.tokens is None


def _queries(facts):
    return Queries([fact.question for fact in facts])


class TestEdits:
    def test_half_of_the_test_facts_change_and_no_other(self, task):
        edits = edits_of(task)
        before, after = memory_of(task), memory_of(replace(task, asks="edited"))
        tested = {fact.id for fact in asked_facts(task, "test")}
        assert len(edits) == 30
        assert set(edits) <= tested
        for fact in facts_of(task):
            one, two = (memory.entry(memory.row(fact.id)) for memory in (before, after))
            assert (one != two) == (fact.id in edits)
            assert one.text == fact.text
            assert two.text == edits.get(fact.id, fact).text

    def test_edited_and_kept_ask_all_between_them(self, task):
        sets = task.test_sets()
        assert list(sets) == ["test", "edited", "kept"]
        edited, kept = (asked_facts(sets[name], "test") for name in ("edited", "kept"))
        assert sorted(fact.id for fact in edited + kept) == sorted(fact.id for fact in asked_facts(task, "test"))
        assert memory_of(sets["edited"]) is memory_of(sets["kept"])
        assert memory_of(sets["edited"]).version > memory_of(task).version

    def test_questions_after_an_edit_have_the_new_answer_and_read_it(self, task):
        edited = replace(task, asks="edited", relevance=Oracle(), selection=TopK(1))
        batch = everything(edited)
        old = {fact.id: fact.value for fact in facts_of(task)}
        for row, fact in enumerate(in_order(edited)):
            assert batch.targets[row] == fact.value != old[fact.id]
            (text,) = set(texts(edited, batch.inputs.block, row))
            assert ANSWERS[fact.value] in text
            assert ANSWERS[old[fact.id]] not in text

    def test_training_and_validation_are_untouched(self, task):
        for split in ("train", "validation"):
            one, two = everything(task, split), everything(replace(task, asks="edited"), split)
            assert one.targets.equal(two.targets)


class TestAnswerTokens:
    def test_are_the_words_tokens(self):
        encoder = HashedEncoder(8)
        tokens = answer_tokens(encoder, ["red", "blue"])
        assert tokens == tuple(encoder.encode(["red", "blue"]).tokens[:, 0].tolist())

    def test_what_all_have_is_no_answer(self):
        """As [CLS] and [SEP] are in every text of BERT's."""
        encoder = HashedEncoder(8)
        assert answer_tokens(encoder, ["the red one", "the blue one"]) == answer_tokens(encoder, ["red", "blue"])

    def test_of_several_words(self):
        with pytest.raises(ValueError, match=r"not one token of the encoder can't be copied: dark red"):
            answer_tokens(HashedEncoder(8), ["dark red", "blue"])


class TestMetrics:
    def test_attention_on_gold_by_hand(self):
        weights = torch.tensor([[[0.5, 0.25, 0.25], [0, 1, 0]], [[1, 0, 0], [1, 0, 0.0]], [[0, 0, 0], [0, 0, 0.0]]])
        supports = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
        found = retrieved_facts(weights, supports)
        assert [float(part) for part in found["recall"]] == [2, 3]
        assert [float(part) for part in found["attention_on_gold"]] == [0.75 + 1, 6]


def test_a_block_of_tokens_holds_whole_facts():
    """Twelve tokens, the default, suffice for every sentence."""
    task = PeopleQA(**SMALL, encoder=HashedEncoder(8))
    longer = replace(task, memory=partial(SequenceMemory, max_tokens=20))
    blocks = [everything(each, "train").inputs.block for each in (task, longer)]
    assert all(isinstance(block, Block) for block in blocks)
    assert blocks[0].mask.sum(1).equal(blocks[1].mask.sum(1))
