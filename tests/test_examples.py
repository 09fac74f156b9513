"""Metrics of every example by itself: together they are the evaluation's, and intervals follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from babi_example import task_in as babi_in
from babi_example import write_babi
from squad_example import write_squad
from text_example import task_in as text_in
from text_example import write_text
from tiny import ALONE, script

from memnets.models.dnc import DNC
from memnets.models.generating_reader import GeneratingReader
from memnets.models.graph_reader import GraphReader
from memnets.models.lstm import LSTM
from memnets.models.memn2n import MemN2N
from memnets.models.memory_transformer import MemoryTransformer
from memnets.models.retrieval_reader import RetrievalReader
from memnets.models.span_reader import SpanReader
from memnets.models.text_encoder import SmallTextEncoder
from memnets.retrieval.base import Queries
from memnets.retrieval.encoder import HashedEncoder
from memnets.retrieval.lexical import BM25
from memnets.retrieval.relevance import Oracle
from memnets.retrieval.selection import TopK
from memnets.tasks.copy import Copy
from memnets.tasks.graph_questions import GraphQuestions
from memnets.tasks.mqar import MQAR
from memnets.tasks.overwrite import Overwrite
from memnets.tasks.people_generation import PeopleGeneration
from memnets.tasks.people_qa import PeopleQA, asked_facts, memory_of
from memnets.tasks.squad import SquadReading
from memnets.training.evaluation import evaluate
from memnets.training.examples import Examples

PEOPLE = PeopleQA(
    num_people=12, num_validation_people=2, num_test_people=3, encoder=HashedEncoder(16), relevance=BM25()
)
WRITTEN = PeopleGeneration(
    num_people=12, num_validation_people=2, num_test_people=3, encoder=HashedEncoder(16), relevance=BM25()
)
SMALL_DNC = partial(DNC, memory_size=4, word_size=3)
SMALL_TRANSFORMER = partial(MemoryTransformer, d_model=8, num_heads=2, num_layers=1, window=16)
SMALL_ENCODER = partial(SmallTextEncoder, d_model=8, num_layers=1, num_heads=2)


def squad(folder):
    root = write_squad(folder)
    return SquadReading(data_root=str(root), verify_checksum=False, selection=TopK(2), relevance=BM25())


def text(folder, **fields):
    return text_in(write_text(folder), eval_segment_length=20, **fields)


JUDGED = {
    "bits": (lambda folder: Copy(eval_sequences=12, max_length=3), SMALL_DNC),
    "groups": (lambda folder: Overwrite(eval_sequences=6), LSTM),
    "places": (lambda folder: MQAR(eval_sequences=6), SMALL_TRANSFORMER),
    "story": (lambda folder: babi_in(write_babi(folder)), MemN2N),
    "tokens": (lambda folder: replace(babi_in(write_babi(folder)), view="tokens"), SMALL_DNC),
    "text": (text, LSTM),
    "streams": (partial(text, eval_streams=3), LSTM),
    "question": (lambda folder: PEOPLE, RetrievalReader),
    "written": (lambda folder: WRITTEN, partial(GeneratingReader, d_model=8, num_heads=2, num_layers=1)),
    "graph": (lambda folder: GraphQuestions(), GraphReader),
    "spans": (squad, partial(SpanReader, encoder=SMALL_ENCODER)),
}


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


@pytest.fixture
def judged(request, tmp_path):
    """A task, its metrics, and its examples."""
    make_task, make_model = JUDGED[request.param]
    torch.manual_seed(0)
    task = make_task(tmp_path)
    examples = Examples(model := make_model(task.spec), task)
    return task, evaluate(model, task, "test", 5, ALONE, note=examples), examples


every = pytest.mark.parametrize("judged", JUDGED, indirect=True)


class TestExamples:
    @every
    def test_together_they_are_the_evaluation(self, judged):
        task, metrics, examples = judged
        derived = task.derived_metrics(metrics)
        assert metrics.keys() - derived.keys() <= examples.answers[0].keys()
        for name in metrics.keys() - derived.keys():
            total, count = (sum(float(own[name][part]) for own in examples.answers) for part in (0, 1))
            assert total / count == pytest.approx(metrics[name], rel=1e-5), name

    def test_a_model_writes_once(self, monkeypatch, tmp_path):
        calls, go_on = [], GeneratingReader.go_on

        def counted(*given):
            calls.append(given)
            return go_on(*given)

        monkeypatch.setattr(GeneratingReader, "go_on", counted)
        make_task, make_model = JUDGED["written"]
        task = make_task(tmp_path)
        examples = Examples(model := make_model(task.spec), task)
        metrics = evaluate(model, task, "test", 5, ALONE, note=examples)
        assert len(calls) == task.num_batches("test", 5)
        assert {"exact_match", "f1"} <= metrics.keys() & examples.answers[0].keys()

    @every
    def test_intervals_hold_the_metrics(self, judged):
        _, metrics, examples = judged
        answers = examples.stages("test", metrics)["answers"]
        assert {name: measured.value for name, measured in answers.items()} == metrics
        assert all(low <= value <= high for value, low, high in answers.values())
        assert any(low < high for _, low, high in answers.values())
        assert answers == examples.stages("test", metrics)["answers"], "seeded"

    @pytest.mark.parametrize("judged", ["places"], indirect=True)
    def test_of_places_judged_by_themselves_an_example_is_a_sequence(self, judged):
        task, _, examples = judged
        assert len(examples.answers) == 5 * task.num_batches("test", 5)
        assert all(own["accuracy"].count == task.num_pairs for own in examples.answers)

    @pytest.mark.parametrize("judged", ["text", "streams"], indirect=True)
    def test_a_perplexity_is_derived_of_every_sample(self, judged):
        task, metrics, examples = judged
        answers = examples.stages("test", metrics)["answers"]
        loss, perplexity = answers["loss"], answers["perplexity"]
        assert sum(float(own["loss"].count) for own in examples.answers) == task.num_tokens("test")
        assert list(perplexity) == pytest.approx([math.exp(part) for part in loss], rel=1e-3)

    @pytest.mark.parametrize("judged", ["story", "question", "bits"], indirect=True)
    def test_memories_that_are_handed_out_are_a_stage(self, judged):
        _, metrics, examples = judged
        memory = examples.stages("test", metrics)["memory"]
        assert memory.keys() == {"memory_usage", "memory_entropy"}
        assert all(low <= value <= high for value, low, high in memory.values())
        assert len(examples.memory) == len(examples.answers)

    def test_a_metric_of_no_single_example_has_no_interval(self):
        task, model = Copy(eval_sequences=4), LSTM(Copy().spec)
        examples = Examples(model, task)
        metrics = evaluate(model, task, "test", 2, ALONE, note=examples)
        stages = examples.stages("test", metrics | {"memory_0_gate": 0.5})
        assert stages.keys() == {"answers"}
        assert stages["answers"]["memory_0_gate"] == (0.5, None, None)

    def test_a_split_without_examples_is_refused(self):
        with pytest.raises(ValueError, match="PeopleQA: train has nothing to evaluate on, in batches of 100"):
            evaluate(RetrievalReader(PEOPLE.spec), PEOPLE, "train", 100, ALONE)
        with pytest.raises(ValueError, match="nothing to draw from: no examples"):
            Examples(RetrievalReader(PEOPLE.spec), PEOPLE).stages("test", {})


class TestRetrieval:
    @pytest.mark.parametrize("asks", ["all", "edited"])
    def test_ranks_of_people_s_facts_equal_a_loop(self, asks):
        task = replace(PEOPLE, asks=asks)
        memory = memory_of(task)
        ranks = task.retrieval_ranks("test")
        for fact, rank in zip(asked_facts(task, "test"), ranks, strict=True):
            scores = BM25().scores(memory, Queries([fact.question]))[0].tolist()
            gold = scores.pop(memory.row(fact.id))
            assert rank.tolist() == [1 + sum(other >= gold for other in scores)]

    def test_the_selection_finds_what_ranks_among_its_number(self):
        five = replace(PEOPLE, selection=TopK(5))
        found = five.batch("test", 0, 18, 0).supports.any(-1).sum()
        assert found == sum(int(rank) <= 5 for rank in five.retrieval_ranks("test"))

    def test_ranks_of_squad_s_paragraphs(self, tmp_path):
        task = squad(tmp_path)
        ranks = [int(rank) for rank in task.retrieval_ranks("test")]
        assert len(ranks) == len(replace(task, relevance=Oracle()).retrieval_ranks("test"))
        assert all(int(rank) == 1 for rank in replace(task, relevance=Oracle()).retrieval_ranks("test"))
        assert max(ranks) > 1
        read = [task.batch("test", i, 7, 0).supports.any(-1) for i in range(task.num_batches("test", 7))]
        assert sum(rank <= 2 for rank in ranks) == torch.cat(read).sum()

    def test_a_task_without_retrieval_has_none(self):
        assert Copy().retrieval_ranks("test") == ()


def test_the_script_prints_intervals_by_stage_and_keeps_them(tmp_path, capsys):
    words = [
        "task.num_people=20",
        "task.num_validation_people=2",
        "task.num_test_people=4",
        f"runtime.runs_dir={tmp_path}",
    ]
    words += ["trainer.batch_size=8", "trainer.max_steps=3", "logger.progress=none", "runtime.pictures=false"]
    assert script("train").main(["experiment=people_qa", *words]) == 0
    (folder,) = (path.parent for path in tmp_path.glob("*/config.yaml"))
    capsys.readouterr()
    assert script("evaluate").main([f"checkpoint={folder}"]) == 0
    printed = capsys.readouterr().out
    row = json.loads((folder / "evaluations.jsonl").read_text())
    assert row["examples"] == {"test": 24, "edited": 12, "kept": 12}
    for name, stages in row["stages"].items():
        assert list(stages) == ["answers", "memory", "retrieval"]
        assert {key: value for key, (value, *_) in stages["answers"].items()} == row["metrics"][name]
        assert list(stages["retrieval"]) == ["recall_1", "recall_5", "recall_20", "mrr", "ndcg_10"]
        for value, low, high in (measured for stage in stages.values() for measured in stage.values()):
            assert low <= value <= high
            assert {f"{part:.4g}" for part in (value, low, high)} <= set(printed.split())
