"""Reading SQuAD: what is asked, cut and read; what scores; and the tasks that help it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from squad_example import write_squad
from torch.testing import assert_close

from memnets.contracts import named_tensors
from memnets.retrieval.lexical import BM25
from memnets.retrieval.passages import Passages, best_spans
from memnets.retrieval.relevance import Random
from memnets.retrieval.selection import Threshold, TopK
from memnets.retrieval.tokenizer import HashedTokenizer
from memnets.tasks.base import SPLITS, NoOracleError
from memnets.tasks.masked_language_modelling import MaskedLanguageModelling
from memnets.tasks.mixture import Mixture
from memnets.tasks.squad import SquadReading
from memnets.tasks.squad_sentences import SquadSentences
from memnets.tasks.squad_tokens import token_span

TOKENIZER = HashedTokenizer()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return {"data_root": str(write_squad(tmp_path_factory.mktemp("squad"))), "verify_checksum": False}


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture(scope="module")
def task(root):
    return SquadReading(**root, window=24, tokenizer=TOKENIZER)


def all_batches(task, split="test", size=7, seed=0):
    return [task.batch(split, index, size, seed) for index in range(task.num_batches(split, size))]


def score(task, batches, outputs):
    total = {name: [0.0, 0.0] for name in task.metric_names}
    for batch in batches:
        for name, ratio in task.metrics(outputs(batch), batch).items():
            total[name] = [total[name][0] + float(ratio.total), total[name][1] + float(ratio.count)]
    return {name: part / whole for name, (part, whole) in total.items()}


def words(task, batch, row, passage=0):
    """Tokens of a question's window."""
    own = batch.inputs.tokens[row, passage]
    return own[batch.inputs.types[row, passage] == 1][:-1]


class TestReading:
    def test_articles_are_apart_and_all_asked_about(self, task):
        data = task.data
        asked = {
            split: {q for b in all_batches(task, split, 1) for q in b.inputs.question.tolist()} for split in SPLITS
        }
        titles = {
            split: {data.squad.titles[data.squad.questions[q].paragraph] for q in asked[split]} for split in SPLITS
        }
        assert {split: len(own) for split, own in titles.items()} == {"train": 6, "validation": 4, "test": 6}
        assert len(set.union(*titles.values())) == 16
        assert sum(map(len, asked.values())) == len(data.squad.questions)

    @pytest.mark.parametrize("split", SPLITS)
    def test_targets_are_the_answer(self, task, split):
        """What stands between the targets, in the tokens themselves, is an answer's text in tokens."""
        for batch in all_batches(task, split):
            assert batch.mask.all()
            for row, number in enumerate(batch.inputs.question.tolist()):
                start, end = batch.targets[row].tolist()
                answers = {TOKENIZER.tokenize(a.text).tokens for a in task.data.squad.questions[number].answers}
                assert tuple(batch.inputs.tokens[row].flatten()[start : end + 1].tolist()) in answers

    def test_training_reads_windows_that_move_and_the_test_all(self, task):
        batches = all_batches(task, "train", 1)
        firsts = {int(batch.inputs.first) for batch in batches}
        assert len(firsts) > 5
        assert all(len(words(task, batch, 0)) == 24 for batch in batches)
        for batch in all_batches(task, "test"):
            for row, number in enumerate(batch.inputs.rows[:, 0].tolist()):
                assert tuple(words(task, batch, row).tolist()) == task.data.paragraphs[number].tokens

    def test_oracle_is_perfect_where_the_passage_was_read_and_nothing_known_elsewhere(self, task):
        batches = all_batches(task)
        assert score(task, batches, task.oracle) == {"exact_match": 1.0, "f1": 1.0}
        lost = replace(task, relevance=Random(), selection=TopK(2))
        batches = all_batches(lost)
        found = torch.cat([batch.supports.any(-1) for batch in batches])
        assert 0 < found.sum() < len(found) / 2
        assert torch.cat([batch.mask[:, 0] for batch in batches]).equal(found)
        assert score(lost, batches, lost.oracle)["exact_match"] >= found.double().mean()

    def test_zeros_and_batches_of_one_epoch(self, task):
        assert score(task, all_batches(task), lambda b: torch.zeros(b.size, 2, b.inputs.tokens[0].numel()))["f1"] < 0.5
        epoch = [q for b in all_batches(task, "train", 8, seed=3) for q in b.inputs.question.tolist()]
        assert len(set(epoch)) == len(epoch) == 8 * task.num_batches("train", 8)
        first, again = task.batch("train", 2, 8, 3), task.batch("train", 2, 8, 3)
        assert_close(named_tensors(again.inputs), named_tensors(first.inputs), rtol=0, atol=0)
        assert not task.batch("train", 2, 8, 4).inputs.question.equal(first.inputs.question)

    def test_training_never_goes_without_the_gold_passage(self, task):
        read = replace(task, relevance=Random(), selection=TopK(2))
        assert all(batch.supports.any(-1).all() and batch.mask.all() for batch in all_batches(read, "train"))

    def test_the_best_of_two_passages_may_be_chosen_by_relevance(self, task):
        two = replace(task, relevance=BM25(), selection=TopK(2))
        batch = two.batch("test", 0, 4, 0)
        nothing = torch.zeros(4, 2, batch.inputs.tokens[0].numel())
        assert {span.passage for span in best_spans(nothing, batch.inputs, 5, relevance_weight=1.0)} == {0}
        outputs = nothing.unflatten(-1, (2, -1)).clone()
        outputs[:, :, 1] = 50.0
        assert {span.passage for span in best_spans(outputs.flatten(2), batch.inputs, 5, 1.0)} == {1}

    def test_where_nothing_was_read_nothing_is_answered(self, task):
        batch = replace(task, relevance=BM25(), selection=Threshold(1e9, 0, 2)).batch("test", 0, 4, 0)
        outputs = torch.zeros(4, 2, batch.inputs.tokens[0].numel())
        assert task.answers(outputs, batch) == [""] * 4
        assert float(task.metrics(outputs, batch)["f1"].total) == 0

    def test_sets_are_named_and_tell_their_own_recall(self, root):
        task = SquadReading(**root, tokenizer=TOKENIZER, test_relevances=[BM25(), Random()])
        sets = task.test_sets()
        recall = {
            name: torch.cat([b.supports.any(-1) for b in all_batches(own)]).double().mean()
            for name, own in sets.items()
        }
        assert list(sets) == ["test", "bm25", "random"]
        assert recall["test"] == 1 >= recall["bm25"] > 0.5 > recall["random"]

    def test_nonsense_is_refused(self, root):
        with pytest.raises(ValueError, match="too few for a question of 40"):
            SquadReading(**root, window=5)
        with pytest.raises(ValueError, match="different classes, not bm25, bm25"):
            SquadReading(**root, test_relevances=[BM25(), BM25()])
        with pytest.raises(ValueError, match="leave none for train"):
            SquadReading(**root, num_test_articles=12).num_batches("train", 1)


def test_best_spans_are_those_of_a_loop():
    """Within one passage, no longer than allowed, never in the question: by trying all."""
    torch.manual_seed(0)
    types = torch.zeros(3, 2, 9, dtype=torch.long)
    types[..., 4:] = 1
    types[:, 1, 8] = 0
    tokens, numbers = torch.where(torch.arange(9) < 8 + (types[..., 8:] > 0), 5, 0), torch.zeros(3, 2, dtype=torch.long)
    inputs = Passages(tokens, types, torch.zeros(3, 2), numbers[:, 0], numbers, numbers + 3)
    outputs = torch.randn(3, 2, 18)
    for row, span in enumerate(best_spans(outputs, inputs, 2)):
        logits = outputs[row].unflatten(-1, (2, 9))
        spans = [
            (float(logits[0, p, a] + logits[1, p, z]), p, a - 1, z - 1)
            for p, last in ((0, 8), (1, 7))
            for a in range(4, last)
            for z in range(a, min(a + 2, last))
        ]
        best = max(spans)
        assert (span.passage, span.start, span.end) == best[1:]
        assert span.score == pytest.approx(best[0])


def test_token_spans_touch_the_characters():
    places = ((0, 3), (4, 7), (7, 8), (9, 12))
    assert token_span(places, 4, 7) == (1, 1)
    assert token_span(places, 5, 8) == (1, 2)
    assert token_span(places, 0, 12) == (0, 3)


class TestHelpingTasks:
    def test_hidden_tokens_are_those_that_were_there(self, root):
        task = MaskedLanguageModelling(**root, window=20, hidden_share=0.3, tokenizer=TOKENIZER)
        hidden = []
        for batch in all_batches(task, "test"):
            shown = batch.inputs.tokens.gather(1, batch.inputs.asked)
            hidden += (shown == TOKENIZER.mask).flatten().tolist()
            whole = batch.inputs.tokens.scatter(1, batch.inputs.asked, batch.targets)
            assert not (whole[:, 1:-1] == TOKENIZER.mask).any()
            assert (batch.inputs.tokens != whole).sum(1).max() <= task.num_hidden == 6
        assert 0.7 < sum(hidden) / len(hidden) < 0.9
        with pytest.raises(NoOracleError):
            task.oracle(batch)

    def test_training_reads_no_test_article(self, root):
        task = MaskedLanguageModelling(**root, window=20, tokenizer=TOKENIZER)
        lengths = [task.num_batches(split, 1) for split in SPLITS]
        assert lengths[1] * 1.3 < lengths[2]
        assert lengths[0] < sum(len(own.tokens) for own in task_data(task).paragraphs) // 20

    def test_pairs_tell_whether_the_answer_is_there(self, root):
        task = SquadSentences(**root, tokenizer=TOKENIZER)
        seen = set()
        for batch in all_batches(task, "test", 10):
            for row, target in enumerate(batch.targets.tolist()):
                own = batch.inputs.tokens[row][batch.inputs.types[row] == 1][:-1]
                asked = set(batch.inputs.tokens[row][batch.inputs.types[row] == 0].tolist())
                thing = TOKENIZER.tokenize("roof door gate wall tower").tokens
                shared = asked & set(own.tolist()) & set(thing)
                assert bool(shared) == bool(target)
                seen.add(target)
        assert seen == {0, 1}


def task_data(task):
    return SquadReading(data_root=task.data_root, verify_checksum=False, tokenizer=task.tokenizer).data


@pytest.fixture(scope="module")
def mixture(root):
    return Mixture(
        spans=SquadReading(**root, test_relevances=[BM25()]),
        tokens=MaskedLanguageModelling(**root, window=20),
        classes=SquadSentences(**root),
        tokenizer=TOKENIZER,
        weights=[2.0, 1.0, 1.0],
    )


class TestMixture:
    def test_batches_are_the_tasks_own_in_turn_by_weight(self, mixture):
        batches = [mixture.batch("train", index, 4, 1) for index in range(80)]
        numbers = [int(batch.groups.flatten()[0]) for batch in batches]
        assert numbers.count(0) > max(numbers.count(1), numbers.count(2)) > min(numbers.count(1), numbers.count(2)) > 8
        for number, task in enumerate(mixture.tasks.values()):
            own = [batch for batch, drawn in zip(batches, numbers, strict=True) if drawn == number]
            for index, batch in enumerate(own):
                expected = task.batch("train", index, 4, 1)
                assert_close(named_tensors(batch.inputs), named_tensors(expected.inputs), rtol=0, atol=0)
        assert numbers != [int(mixture.batch("train", index, 4, 2).groups.flatten()[0]) for index in range(80)]

    def test_validation_goes_through_all(self, mixture):
        batches = all_batches(mixture, "validation", 16)
        counts = [task.num_batches("validation", 16) for task in mixture.tasks.values()]
        assert [int(b.groups.flatten()[0]) for b in batches] == [
            n for n, count in enumerate(counts) for _ in range(count)
        ]
        with pytest.raises(IndexError):
            mixture.batch("validation", len(batches), 16, 0)

    def test_metrics_are_named_and_of_the_batch_alone(self, mixture):
        assert mixture.metric_names == ("spans_exact_match", "spans_f1", "tokens_accuracy", "classes_accuracy")
        batch = mixture.batch("validation", 0, 16, 0)
        found = mixture.metrics(mixture.oracle(batch), batch)
        assert list(found) == list(mixture.metric_names)
        assert found["spans_f1"].total == found["spans_f1"].count == 16
        assert found["classes_accuracy"].count == 0
        assert list(mixture.test_sets()) == ["test", "bm25", "tokens", "classes"]
        assert mixture.spec.heads == ("span", "tokens", "class")

    def test_nonsense_is_refused(self, mixture):
        with pytest.raises(ValueError, match=r"Mixture\.tokens must be a task of texts for the head 'tokens'"):
            replace(mixture, tokens=mixture.classes)
        with pytest.raises(ValueError, match=r"num_test_articles must be equal.* spans 5, tokens 6, classes 6"):
            replace(mixture, spans=replace(mixture.spans, num_test_articles=5))
        with pytest.raises(ValueError, match="three numbers from 0 on"):
            replace(mixture, weights=[1.0])
