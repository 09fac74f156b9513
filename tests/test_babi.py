"""bAbI: what a batch holds, how it is judged, and the real data where it lies at hand."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from babi_example import TEST, VOCABULARY, task_in, words_of, write_babi
from tiers import but_for_long
from torch.testing import assert_close

from memnets.contracts import Spec, Story
from memnets.files import data_root
from memnets.tasks.babi import Babi
from memnets.tasks.babi_files import find_file, read_file
from memnets.tasks.base import DataError


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    return write_babi(tmp_path)


def value(ratio):
    return (ratio.total / ratio.count).item()


class TestBatches:
    def test_vocabulary_is_of_training_and_test_with_padding_first(self, root):
        assert list(task_in(root).vocabulary) == VOCABULARY

    def test_story_view(self, root):
        task = task_in(root)
        assert task.spec == Spec("story", input_size=14, output_size=14, story_size=3, sentence_size=6)
        batch = task.batch("test", 0, 2, 0)
        assert batch.inputs.story.shape == (2, 3, 6)
        facts = [[words_of(task, fact) for fact in story] for story in batch.inputs.story]
        assert facts[0] == ["daniel went to the hallway", "", ""]
        assert facts[1] == ["daniel went to the hallway", "john moved to the garden", "daniel went to the garden"]
        assert words_of(task, batch.inputs.query[1]) == "where is daniel"
        assert batch.inputs.query[1].tolist()[3:] == [0, 0, 0]
        assert words_of(task, batch.targets) == "hallway garden"
        assert batch.mask.tolist() == [True, True]

    def test_token_view(self, root):
        task = task_in(root, view="tokens")
        batch = task.batch("test", 0, 2, 0)
        assert words_of(task, batch.inputs[0]) == "daniel went to the hallway where is daniel"
        assert batch.inputs.shape == (2, 18)
        assert batch.inputs[0, 8:].tolist() == [0] * 10
        assert batch.mask.nonzero().tolist() == [[0, 7], [1, 17]]
        assert words_of(task, batch.targets) == "hallway garden"
        assert batch.targets[batch.mask].tolist() == [VOCABULARY.index("hallway"), VOCABULARY.index("garden")]
        assert task.spec == Spec("tokens", 14, 14)

    def test_the_newest_facts_are_kept(self, root):
        task = task_in(root, story_size=2)
        batch = task.batch("test", 0, 3, 0)
        assert batch.inputs.story.shape[1] == task.spec.story_size == 2
        kept = [words_of(task, sentence) for sentence in batch.inputs.story[1]]
        assert kept == ["john moved to the garden", "daniel went to the garden"]
        assert (task.dropped_facts("test"), task_in(root).dropped_facts("test")) == (2, 0)

    def test_supporting_facts_stand_beside_the_story(self, root):
        batch = task_in(root).batch("test", 0, 3, 0)
        assert batch.supports.tolist() == [[True, False, False], [False, False, True], [False, True, False]]
        forgetful = task_in(root, story_size=1).batch("test", 0, 3, 0)
        assert forgetful.supports.tolist() == [[True], [True], [False]]
        assert task_in(root, view="tokens").batch("test", 0, 3, 0).supports is None

    def test_questions_may_have_several_supporting_facts_or_none(self, tmp_path):
        test = "1 Mary moved.\n2 Where is Mary?\tgarden\t1\n3 John moved.\n4 Where?\tgarden\t3 1\n5 Where?\tgarden\t\n"
        batch = task_in(write_babi(tmp_path, test=test)).batch("test", 0, 3, 0)
        assert batch.supports[:, :2].tolist() == [[True, False], [True, True], [False, False]]
        assert batch.supports.shape == batch.inputs.story.shape[:2]

    def test_validation_is_the_end_of_training(self, root):
        for fraction, held_out in ((0.1, 1), (0.25, 1), (0.5, 2)):
            task = task_in(root, validation_fraction=fraction)
            assert [task.num_batches(split, 1) for split in ("train", "validation")] == [4 - held_out, held_out]
        assert words_of(task, task.batch("validation", 1, 1, 0).inputs.query) == "where is john"

    def test_no_story_is_in_training_and_validation(self, tmp_path):
        story = "1 Mary went to the garden.\n2 Where is Mary?\tgarden\t1\n3 Where is Mary?\tgarden\t1\n"
        task = task_in(write_babi(tmp_path, train=3 * story, test=story), validation_fraction=0.5)
        assert [task.num_batches(split, 1) for split in ("train", "validation")] == [2, 4]

    def test_an_epoch_asks_each_question_once_in_an_order_of_its_own(self, root):
        task = task_in(root, view="tokens")
        orders = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
            batches = [task.batch("train", 3 * epoch + i, 1, seed) for i in range(3)]
            orders.append(tuple(words_of(task, batch.inputs) for batch in batches))
        assert len({frozenset(order) for order in orders}) == 1
        assert len(set(orders[0])) == 3
        assert len(set(orders)) > 1

    def test_a_batch_is_a_function_of_its_arguments(self, root):
        one, other = (task_in(root).batch("train", 5, 2, 7) for _ in range(2))
        assert torch.equal(one.inputs.story, other.inputs.story)
        assert torch.equal(one.targets, other.targets)

    def test_evaluation_asks_all_in_order_and_stops(self, root):
        task = task_in(root)
        sizes = [task.batch("test", i, 2, 0).size for i in range(task.num_batches("test", 2))]
        assert sizes == [2, 1]
        assert torch.equal(task.batch("test", 0, 2, 0).targets, task.batch("test", 0, 2, 99).targets)
        with pytest.raises(IndexError, match="test has 2 batches, none number 2"):
            task.batch("test", 2, 2, 0)

    def test_jointly_each_task_has_a_test_set_of_its_own(self, root):
        for number in range(2, 21):
            write_babi(root, number, test=TEST if number < 20 else TEST.replace("hallway", "bathroom"))
        task = task_in(root, number=None)
        sets = task.test_sets()
        assert list(sets) == ["test", *(f"qa{n}" for n in range(1, 21))]
        assert task.num_batches("test", 1) == 60
        assert task.num_batches("train", 1) == sets["qa20"].num_batches("train", 1) == 60
        assert sets["qa20"].num_batches("validation", 1) == 1
        for name, place in (("qa20", "bathroom"), ("qa19", "hallway")):
            batch = sets[name].batch("test", 0, 3, 0)
            assert words_of(task, batch.targets) == f"{place} garden garden"
            assert words_of(task, batch.inputs.story[0]) == f"daniel went to the {place}"
        assert {name: other.spec for name, other in sets.items()} == dict.fromkeys(sets, task.spec)
        assert list(task_in(root).test_sets()) == ["test"]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"number": 0}, "number must be 1 to 20, or null"),
            ({"number": 21}, "number must be 1 to 20, or null"),
            ({"number": 3, "eval_number": 4}, r"eval_number must be one of the tasks \(3,\), not 4"),
            ({"story_size": 0}, "story_size must be at least 1"),
            ({"validation_fraction": 1.0}, "validation_fraction must lie between 0 and 1"),
        ],
    )
    def test_settings_without_meaning_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Babi(**fields)


class TestJudging:
    @pytest.mark.parametrize("view", ["story", "tokens"])
    def test_loss_and_metrics_count_questions(self, root, view):
        task = task_in(root, view=view)
        batch = task.batch("test", 0, 3, 0)
        outputs = torch.zeros(*batch.mask.shape, 14)
        assert_close(task.loss(outputs, batch), 3 * torch.log(torch.tensor(14.0)))
        outputs[..., VOCABULARY.index("garden")] = 1.0
        metrics = task.metrics(outputs, batch)
        assert (value(metrics["accuracy"]), value(metrics["error"])) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
        assert metrics["error"].count == 3
        assert set(metrics) == set(task.metric_names)

    def test_only_the_questions_last_word_counts(self, root):
        task = task_in(root, view="tokens")
        batch = task.batch("test", 0, 3, 0)
        outputs = torch.randn(*batch.mask.shape, 14)
        other = torch.where(batch.mask[..., None], outputs, torch.randn_like(outputs))
        assert_close(task.loss(other, batch), task.loss(outputs, batch), rtol=0, atol=0)
        assert value(task.metrics(other, batch)["error"]) == value(task.metrics(outputs, batch)["error"])

    @pytest.mark.parametrize("view", ["story", "tokens"])
    def test_the_oracle_answers_from_the_inputs_alone(self, root, view):
        task = task_in(root, view=view)
        batch = task.batch("test", 0, 3, 0)
        blind = replace(batch, targets=torch.zeros_like(batch.targets))
        assert value(task.metrics(task.oracle(blind), batch)["accuracy"]) == 1.0
        assert task.loss(task.oracle(batch), batch) < 1e-3

    def test_no_oracle_is_pretended(self, root):
        write_babi(root, 4)
        task = task_in(root, number=4)
        with pytest.raises(ValueError, match=r"answers bAbI tasks \(1, 2, 3\), not task.number=4"):
            task.oracle(task.batch("test", 0, 1, 0))


@pytest.fixture(scope="module")
def real():
    """The published files. Where MEMNETS_DATA says that data is at hand they must be there; elsewhere we skip."""
    try:
        find_file(data_root(None), "1k", 1, "train")
    except DataError:
        if os.environ.get("MEMNETS_DATA"):
            raise
        pytest.skip("bAbI is not at hand: point MEMNETS_DATA at the folder that holds it")
    return data_root(None)


class TestRealData:
    @pytest.mark.parametrize("number", but_for_long([1, 2, 3], lambda number: number == 1))
    @pytest.mark.parametrize("view", ["story", "tokens"])
    def test_the_oracle_answers_every_test_question(self, real, number, view):
        task = Babi(number=number, view=view, story_size=300, data_root=str(real))
        assert task.dropped_facts("test") == 0
        batch = task.batch("test", 0, 1000, 0)
        assert batch.size == 1000
        assert value(task.metrics(task.oracle(batch), batch)["accuracy"]) == 1.0

    def test_all_twenty_tasks_load_with_their_published_sizes(self, real):
        task = Babi(number=None, data_root=str(real))
        assert len(task.vocabulary) == 175
        assert task.num_batches("train", 1) + task.num_batches("validation", 1) == 20_000
        assert all(other.num_batches("test", 1) == 1000 for name, other in task.test_sets().items() if name != "test")
        assert {"milk,football", "s,w"} <= set(task.vocabulary)
        assert isinstance(task.batch("train", 3, 32, 0).inputs, Story)

    def test_ten_thousand_questions(self, real):
        task = Babi(number=1, questions="10k", data_root=str(real))
        assert task.num_batches("train", 1) + task.num_batches("validation", 1) == 10_000
        small = Babi(number=1, data_root=str(real))
        assert torch.equal(task.batch("test", 0, 99, 0).targets, small.batch("test", 0, 99, 0).targets)

    def test_every_fact_that_supports_an_answer_is_in_its_story(self, real):
        file = read_file(find_file(real, "1k", 2, "test"))
        assert all(q.supports and all(q.first <= fact < q.last for fact in q.supports) for q in file.questions)

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_the_supporting_facts_hold_the_answer(self, real, number):
        task = Babi(number=number, story_size=300, data_root=str(real))
        batch = task.batch("test", 0, 1000, 0)
        assert (batch.supports.sum(-1) == number).all()
        supporting = batch.inputs.story * batch.supports[:, :, None]
        assert (supporting == batch.targets[:, None, None]).flatten(1).any(1).all()
