"""Tasks: one contract for every configs/task/*.yaml that needs no files, then what each paper says of its own."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import hydra.utils
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny import FEW_PEOPLE
from torch.testing import assert_close

from memnets.contracts import GraphQuestion, Ratio, Story, map_tensors, named_tensors
from memnets.retrieval.question import Prompt, Question
from memnets.tasks.base import SPLITS, Criterion, Task, epoch_indices, generator, ratio
from memnets.tasks.copy import Copy


def reads_files(path):
    """Tasks with a `data_root`, and mixtures of such, read files: their own tests bring some."""
    config = OmegaConf.to_container(OmegaConf.load(path))
    targets = [node["_target_"] for node in [config, *config.values()] if isinstance(node, dict) and "_target_" in node]
    return any("data_root" in getattr(hydra.utils.get_object(target), "__dataclass_fields__", ()) for target in targets)


CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "task").glob("*.yaml"))
GENERATED = [pytest.param(path, id=path.stem) for path in CONFIGS if not reads_files(path)]
SEED, SIZE, NUM_BATCHES = 3, 5, 6


@pytest.fixture(params=GENERATED)
def task(request):
    config = OmegaConf.load(request.param)
    draws_people = hasattr(hydra.utils.get_object(config["_target_"]), "num_people")
    few = {key: few for key, few in FEW_PEOPLE.items() if draws_people and key not in config}
    return hydra.utils.instantiate(config, **few, _convert_="all")


def tensors(batch):
    return named_tensors([getattr(batch, field.name) for field in fields(batch)])


def equal(one, two):
    one, two = tensors(one), tensors(two)
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def rows(batch, where):
    pieces = {
        field.name: map_tensors(lambda tensor: tensor[where], getattr(batch, field.name)) for field in fields(batch)
    }
    return replace(batch, **pieces)


def perfect(metric, scores):
    """Best value of a metric: its optimum if the task gives one, no errors and no bits, all of anything else."""
    name = metric.removeprefix("optimal_")
    least = 0.0 if {"error", "errors", "bits"} & set(name.split("_")) else 1.0
    return scores.get(f"optimal_{name}", least)


def is_reference(metric):
    return metric.startswith("optimal_")


def batches(task, split="test"):
    return [task.batch(split, index, SIZE, SEED) for index in range(NUM_BATCHES)]


class TestContract:
    def test_places_judged_by_themselves_give_the_same(self, task):
        """Outputs of labelled places alone, a row each, cost and score what all outputs do."""
        for batch in batches(task) if task.judges_places else []:
            outputs = torch.randn(*batch.mask.shape, task.spec.output_size).double()
            outputs = torch.where(batch.targets[..., None] % 2 == 0, outputs, task.oracle(batch).double())
            alone, labelled = outputs[batch.mask][:, None], batch.labelled()
            assert labelled.mask.all()
            assert_close(task.loss(alone, labelled), task.loss(outputs, batch))
            assert task.metrics(alone, labelled) == task.metrics(outputs, batch)

    def test_oracle_is_perfect(self, task):
        for name, test_set in task.test_sets().items():
            totals = {}
            for batch in batches(test_set):
                for metric, (total, count) in test_set.metrics(test_set.oracle(batch), batch).items():
                    before = totals.get(metric, Ratio(0, 0))
                    totals[metric] = Ratio(before.total + total, before.count + count)
            assert all(each.count > 0 for each in totals.values()), name
            scores = {metric: float(each.total / each.count) for metric, each in totals.items()}
            best = {metric: perfect(metric, scores) for metric in task.metric_names}
            assert scores == pytest.approx(best, rel=0, abs=1e-9), name
            if task.solved is not None:
                assert task.solved.met(scores[task.solved.metric])

    def test_zeros_are_not_perfect(self, task):
        """Else the metrics would praise anything."""
        found = dict.fromkeys(task.metric_names, 0.0)
        for batch in batches(task):
            for metric, (total, count) in task.metrics(torch.zeros_like(task.oracle(batch)), batch).items():
                found[metric] += float(total / count) / NUM_BATCHES if count else 0
        judged = [metric for metric in task.metric_names if not is_reference(metric)]
        assert all(abs(found[metric] - perfect(metric, found)) > 0.01 for metric in judged)

    def test_guesses_are_at_chance(self, task):
        """Random outputs, within five standard deviations of so many guesses."""
        assert set(task.chance) <= set(task.metric_names)
        random = torch.Generator().manual_seed(0)
        totals = dict.fromkeys(task.chance, Ratio(0, 0))
        for batch in batches(task) if task.chance else ():
            found = task.metrics(torch.randn(task.oracle(batch).shape, generator=random), batch)
            totals = {name: Ratio(*map(sum, zip(before, found[name], strict=True))) for name, before in totals.items()}
        for name, chance in task.chance.items():
            total, count = totals[name]
            assert abs(total / count - chance) <= 5 * (chance * (1 - chance) / count) ** 0.5, name

    def test_no_outputs_move_a_reference_line(self, task):
        for batch in batches(task):
            oracle = task.oracle(batch)
            one, two = task.metrics(oracle, batch), task.metrics(torch.randn_like(oracle), batch)
            assert all(one[metric] == two[metric] for metric in filter(is_reference, task.metric_names))

    def test_oracle_has_the_least_loss(self, task):
        for batch in batches(task):
            outputs, places = task.oracle(batch), batch.mask.sum()
            loss, loss_of_zeros = (task.loss(each, batch) / places for each in (outputs, torch.zeros_like(outputs)))
            assert loss.shape == ()
            if any(map(is_reference, task.metric_names)):  # the source itself is random: no outputs cost nothing
                assert 0 <= loss < loss_of_zeros
                continue
            assert 0 <= loss < 0.01
            assert loss < loss_of_zeros / 10

    def test_oracle_looks_at_inputs_alone(self, task):
        for batch in batches(task):
            blind = replace(batch, targets=torch.zeros_like(batch.targets))
            assert task.oracle(blind).equal(task.oracle(batch))

    def test_loss_and_metrics_count_masked_places_only(self, task):
        for batch in batches(task):
            outputs = task.oracle(batch)
            noise = torch.where(batch.mask.unsqueeze(-1), 0, 5 * torch.randn_like(outputs))
            assert_close(task.loss(outputs + noise, batch), task.loss(outputs, batch))
            assert task.metrics(outputs + noise, batch) == task.metrics(outputs, batch)

    def test_loss_has_a_gradient_where_it_counts(self, task):
        batch = batches(task)[0]
        outputs = torch.zeros_like(task.oracle(batch)).requires_grad_()
        task.loss(outputs, batch).backward()
        assert outputs.grad.abs().sum(-1).gt(0).equal(batch.mask)

    @pytest.mark.parametrize("split", SPLITS)
    def test_batch_is_a_pure_function(self, task, split):
        first = [task.batch(split, index, SIZE, SEED) for index in range(3)]
        torch.manual_seed(99)
        again = [task.batch(split, index, SIZE, SEED) for index in (2, 1, 0)][::-1]
        assert all(map(equal, first, again))

    @pytest.mark.parametrize("split", SPLITS)
    def test_batches_differ(self, task, split):
        drawn = [task.batch(split, index, SIZE, SEED) for index in range(NUM_BATCHES)]
        assert not any(equal(one, two) for i, one in enumerate(drawn) for two in drawn[:i])

    def test_splits_and_seeds_differ(self, task):
        drawn = [task.batch(split, 0, SIZE, seed) for split in SPLITS for seed in (0, 1)]
        assert not any(equal(one, two) for i, one in enumerate(drawn) for two in drawn[:i])

    def test_shapes_follow_the_spec(self, task):
        spec = task.spec
        for batch in batches(task) + batches(task, "train"):
            assert batch.size == SIZE
            assert batch.mask.dtype == torch.bool
            assert batch.mask.any(tuple(range(1, batch.mask.dim()))).all(), "a row counts nowhere"
            assert batch.groups is None or batch.groups.shape == batch.mask.shape
            assert task.oracle(batch).shape == (*batch.mask.shape, spec.output_size)
            check_inputs(batch, spec)
            if spec.kind == "vectors":
                assert batch.targets.shape == (*batch.mask.shape, spec.output_size)
                assert batch.targets.dtype == torch.float32
            else:
                assert batch.targets.shape == batch.mask.shape
                assert ((batch.targets >= 0) & (batch.targets < spec.output_size))[batch.mask].all()

    def test_totals_add_up(self, task):
        """Metrics and loss of a batch are the sums of those of its rows, for outputs that are wrong here and there."""
        for batch in batches(task):
            outputs = task.oracle(batch)
            outputs = outputs * torch.randn_like(outputs).add(0.5).sign()
            parts = [slice(0, 2), slice(2, SIZE)]
            whole = task.metrics(outputs, batch)
            halves = [task.metrics(outputs[part], rows(batch, part)) for part in parts]
            assert list(whole) == list(task.metric_names)
            for name, (total, count) in whole.items():
                assert_close(sum(half[name].total for half in halves), total)
                assert sum(half[name].count for half in halves) == count
            losses = [task.loss(outputs[part], rows(batch, part)) for part in parts]
            assert_close(sum(losses), task.loss(outputs, batch))

    def test_evaluations_have_batches(self, task):
        for split in SPLITS:
            few, many = task.num_batches(split, 64), task.num_batches(split, 1)
            assert 1 <= few <= many

    def test_test_sets_are_the_same_task_elsewhere(self, task):
        sets = task.test_sets()
        assert sets["test"] == task
        for name, test_set in sets.items():
            assert isinstance(test_set, Task)
            assert test_set.spec == task.spec
            assert name == "test" or test_set != task

    def test_solved_names_a_metric(self, task):
        assert task.solved is None or task.solved.metric in task.metric_names


def check_inputs(batch, spec):
    if spec.kind == "question":
        check_question(batch, spec)
        return
    if spec.kind == "prompt":
        check_prompt(batch, spec)
        return
    if spec.kind == "graph":
        assert isinstance(batch.inputs, GraphQuestion)
        node, words, edges = batch.inputs
        below = {"entities": (spec.output_size, node, edges.source, edges.target)}
        below |= {"relations": (spec.num_relations, edges.relation), "words": (spec.input_size, words)}
        for size, *parts in below.values():
            assert all(((part >= 0) & (part < size)).all() for part in parts)
        assert all(len(part) == SIZE for part in (node, words, *edges))
        return
    if spec.kind == "story":
        assert isinstance(batch.inputs, Story)
        assert batch.inputs.story.shape == (SIZE, spec.story_size, spec.sentence_size)
        assert batch.inputs.query.shape == (SIZE, spec.sentence_size)
    elif spec.kind == "tokens":
        assert batch.inputs.shape == batch.mask.shape
    else:
        assert batch.inputs.shape == (*batch.mask.shape, spec.input_size)
        assert batch.inputs.dtype == torch.float32
        return
    ids = torch.cat([ids.flatten() for ids in named_tensors({"": batch.inputs}).values()])
    assert ids.dtype == torch.int64
    assert ((ids >= 0) & (ids < spec.input_size)).all()


def check_question(batch, spec):
    assert isinstance(batch.inputs, Question)
    query, block = batch.inputs
    assert query.shape == (SIZE, spec.input_size)
    assert block.vectors.shape == (*block.mask.shape, spec.input_size)
    assert batch.supports.shape == block.mask.shape == block.scores.shape == block.rows.shape
    assert block.mask.shape[0] == SIZE
    assert not batch.supports[~block.mask].any()
    assert (block.tokens is not None) == bool(spec.answer_tokens)
    assert (block.values is not None) == spec.has_values
    assert len(spec.answer_tokens) in (0, spec.output_size)


def check_prompt(batch, spec):
    """Words are told up to each that is asked for; behind them is padding."""
    assert isinstance(batch.inputs, Prompt)
    words, block = batch.inputs
    assert words.shape == batch.mask.shape
    assert ((words >= 0) & (words < spec.input_size)).all()
    assert (words[batch.mask] > 0).all()
    assert (batch.targets[batch.mask] > 0).all()
    assert words[:, 1:].equal(batch.targets[:, :-1])
    assert block.vectors.shape == (*block.mask.shape, spec.item_size)
    assert batch.supports.shape == block.mask.shape == block.scores.shape == block.rows.shape


class TestBase:
    @given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
    def test_epochs_are_permutations(self, batch_size, more, seed):
        """Each epoch meets every item at most once, all but the incomplete last batch, in another order."""
        num_items = batch_size * more + (batch_size - 1)
        epochs = [
            [item for i in range(more) for item in epoch_indices(num_items, e * more + i, batch_size, seed)]
            for e in (0, 1)
        ]
        for epoch in epochs:
            assert len(set(epoch)) == len(epoch) == batch_size * more
            assert set(epoch) <= set(range(num_items))
        assert num_items < 9 or epochs[0] != epochs[1]

    def test_epoch_needs_a_full_batch(self):
        with pytest.raises(ValueError, match="a batch of 4 needs at least as many items; there are 3"):
            epoch_indices(3, 0, 4, 0)

    def test_random_streams_are_apart(self):
        drawn = {generator(seed, split, i).integers(2**62) for seed in (0, 1) for split in SPLITS for i in range(5)}
        assert len(drawn) == 30

    def test_ratio_sums_where_asked(self):
        values = torch.tensor([1.0, 2.0, 4.0])
        assert ratio(values) == Ratio(7, 3)
        assert ratio(values, torch.tensor([True, False, True])) == Ratio(5, 2)

    def test_criterion(self):
        assert Criterion("x", 0.1, "min").met(0.1)
        assert not Criterion("x", 0.1, "min").met(0.2)
        assert Criterion("x", 0.9, "max").met(0.9)
        assert not Criterion("x", 0.9, "max").met(0.8)

    def test_a_task_without_length_says_so(self, monkeypatch):
        task = Copy()
        monkeypatch.setattr(Copy, "at_length", Task.at_length)
        with pytest.raises(ValueError, match="Copy has no length to vary"):
            task.at_length(3)


def test_every_configuration_was_found():
    paper = {"copy", "repeat_copy", "associative_recall", "ngrams", "priority_sort"}
    recall = {"key_value_recall", "keep_n", "segmented_recall", "mqar", "overwrite", "segmented_copy"}
    assert paper | recall | {"people_qa"} <= {path.stem for path in CONFIGS}
