"""PeopleGeneration: what is to be written, and how what was written is judged; short runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from memnets.config import check, compose, with_defaults
from memnets.identity import run_folder, run_folders
from memnets.launch import train
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.lexical import BM25
from memnets.tasks.people_facts import ANSWERS, ATTRIBUTES, FIRST_NAMES, LAST_NAMES
from memnets.tasks.people_generation import END, LONGEST, NUMBER, VOCABULARY, PeopleGeneration, sentence
from memnets.tasks.people_qa import PeopleQA, asked_facts, edits_of
from memnets.training.checkpoint import latest, load

SMALL = {"num_people": 30, "num_validation_people": 4, "num_test_people": 10}
TRAINED = (
    "experiment=people_generation",
    *(f"task.{name}={value}" for name, value in SMALL.items()),
    "task.encoder.size=8",
    "model.d_model=16",
    "trainer.max_steps=4",
    "trainer.schedule.total_steps=4",
    "trainer.schedule.warmup_steps=1",
    "trainer.batch_size=8",
    "trainer.eval_every=2",
    "trainer.log_every=1",
    "logger.progress=none",
    "runtime.pictures=false",
)


@pytest.fixture(scope="module")
def task():
    return PeopleGeneration(**SMALL, relevance=BM25(), encoder=HashedEncoder(16))


def everything(task, split="test"):
    return task.batch(split, 0, len(asked_facts(task, split)), 0)


def told(batch, row):
    """A row's question and answer."""
    start = int(batch.mask[row].int().argmax())
    return sentence(batch.inputs.words[row]), sentence(batch.targets[row, start:])


class TestTexts:
    def test_no_question_is_longer_than_it_says(self, task):
        lengths = [len(fact.question.split()) for fact in asked_facts(PeopleGeneration(num_people=300), "train")]
        assert max(lengths) == task.writing.longest_question

    def test_a_question_is_answered_with_the_whole_sentence(self, task):
        batch, facts = everything(task), in_order(task)
        for row, fact in enumerate(facts):
            question, answer = told(batch, row)
            person, _, name = fact.id.partition("/")
            attribute = next(each for each in ATTRIBUTES if each.name == name)
            assert question == fact.question.rstrip("?")
            assert answer == attribute.facts[0].format(person=person, value=ANSWERS[fact.value]).rstrip(".")

    def test_the_loss_counts_the_answer_and_its_end(self, task):
        batch = everything(task)
        for row in range(batch.size):
            asked = batch.targets[row][batch.mask[row]]
            assert sentence(asked).split() == [VOCABULARY[number] for number in asked[:-1]]
            assert asked[-1] == END
            assert batch.inputs.words[row][batch.mask[row]][0] == END

    def test_edited_facts_are_answered_anew(self, task):
        edited, edits = replace(task, asks="edited"), edits_of(task)
        batch = everything(edited)
        for row, fact in enumerate(in_order(edited)):
            assert ANSWERS[edits[fact.id].value] in told(batch, row)[1].split()

    def test_reads_what_people_qa_reads(self, task):
        asked = PeopleQA(**SMALL, relevance=BM25(), encoder=HashedEncoder(16))
        ours, theirs = everything(task), everything(asked)
        assert ours.inputs.block.rows.equal(theirs.inputs.block.rows)
        assert ours.supports.equal(theirs.supports)

    def test_the_vocabulary_is_the_words_of_all_questions_and_answers(self):
        assert len(set(VOCABULARY)) == len(VOCABULARY)
        assert {*FIRST_NAMES, *LAST_NAMES, *ANSWERS, "lives", "where"} < set(VOCABULARY)
        assert [len(each) for each in VOCABULARY if not each.isalpha()] == [5, 5]  # <pad> and <end>

    def test_the_longest_text_fills_its_row(self):
        facts = PeopleGeneration(num_people=300)
        texts = everything(facts, "train").inputs.words
        assert texts.shape[1] == LONGEST - 1
        assert (texts[:, -1] > 0).any()


def in_order(task):
    facts = asked_facts(task, "test")
    return [facts[row] for row in task.rows("test", 0, len(facts), 0).tolist()]


class TestJudging:
    def judged(self, task, batch, written):
        return {name: float(total / count) for name, (total, count) in task.judge_written(written, batch).items()}

    def test_what_is_right_is_perfect_whatever_follows_it(self, task):
        batch = everything(task)
        written = batch.targets.where(batch.mask, NUMBER["oslo"])
        assert self.judged(task, batch, written) == {"exact_match": 1, "f1": 1}

    def test_one_wrong_word_of_five(self, task):
        batch = task.batch("test", 0, 1, 0)
        right, wrong = batch.targets, batch.targets.clone()
        wrong[0, int(batch.mask[0].nonzero()[-1]) - 1] = NUMBER["where"]
        words = sentence(right[0, int(batch.mask[0].int().argmax()) :]).split()
        kept = [word for word in words if word not in ("a", "an", "the")]
        found = self.judged(task, batch, wrong)
        assert found == {"exact_match": 0, "f1": pytest.approx((len(kept) - 1) / len(kept))}

    def test_an_answer_without_an_end_is_not_exact(self, task):
        batch = everything(task)
        written = batch.targets.masked_fill(batch.targets == END, NUMBER["where"])
        found = self.judged(task, batch, written)
        assert found["exact_match"] == 0
        assert 0.5 < found["f1"] < 1

    def test_perplexity_is_of_the_mean_loss(self, task):
        assert task.derived_metrics({"loss": 0.0}) == {"perplexity": 1}


def small_config(*overrides):
    config = compose([*TRAINED, *overrides]).config
    check(config)
    return with_defaults(config)


def rows(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestRuns:
    @pytest.mark.long
    @pytest.mark.parametrize("model", ["generating_reader", "generating_reader_closed_book"])
    def test_replicas_are_the_runs_alone(self, tmp_path, model):
        given = (f"model={model}", "model.d_model=16", f"runtime.runs_dir={tmp_path}")
        together = small_config(*given, "trainer.num_replicas=2")
        alone = small_config(*given, f"runtime.runs_dir={tmp_path / 'alone'}", "seed=1")
        assert train(together) == train(alone) == 0
        one, two = (weights(run_folders(together)[1]), weights(run_folder(alone)))
        assert_close(one, two, rtol=1e-4, atol=1e-5)

    def test_tests_what_was_written_about_edited_and_kept_facts(self, tmp_path):
        config = small_config(f"runtime.runs_dir={tmp_path}")
        assert train(config) == 0
        tested = {row["split"]: row for row in rows(run_folder(config))}
        assert list(tested) == ["train", "validation", "test", "edited", "kept"]
        for split in ("validation", "test", "edited", "kept"):
            assert {"perplexity", "accuracy", "exact_match", "f1", "recall"} <= tested[split].keys()
            assert 0 <= tested[split]["exact_match"] <= tested[split]["f1"] <= 1


def weights(folder):
    newest = latest(folder / "checkpoints")
    assert newest is not None
    return load(newest, torch.device("cpu")).tensors["model"]
