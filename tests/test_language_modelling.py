"""Language modelling: batches against loops over the text, every token scored once, perplexity from sums."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from text_example import task_in, text, write_text
from tiny import ALONE, ROOT
from torch.testing import assert_close

from memnets.config import build, compose, with_defaults
from memnets.evaluate import Evaluation, evaluate_checkpoint
from memnets.launch import make_trainer
from memnets.models.base import SequenceModel
from memnets.models.lstm import LSTM
from memnets.tasks.base import SPLITS
from memnets.tasks.language_modelling import perplexity
from memnets.tasks.text_counts import count_bigrams
from memnets.tasks.text_tokens import Bytes, Words
from memnets.training.distributed import Processes
from memnets.training.evaluation import _batches, evaluate
from memnets.training.logger import RunLogger


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def only_the_folder_a_test_names(monkeypatch):
    monkeypatch.delenv("MEMNETS_DATA", raising=False)


def ids_of(task, split):
    return task._texts.splits[split].tolist()


def batches(task, split, size, count=None):
    return [task.batch(split, index, size, 0) for index in range(count or task.num_batches(split, size))]


class TestTraining:
    @pytest.mark.parametrize("size", [1, 3, 4])
    @pytest.mark.parametrize("length", [1, 7, 64])
    def test_streams_go_on_from_batch_to_batch(self, root, size, length):
        """An epoch's rows, joined, are neighbouring stretches of the text read as a ring."""
        task = task_in(root, segment_length=length)
        whole = ids_of(task, "train")
        epoch = batches(task, "train", size)
        streams = torch.cat([batch.targets for batch in epoch], 1).tolist()
        before = torch.cat([batch.inputs for batch in epoch], 1).tolist()
        ring = whole + whole + whole
        stretch = len(whole) // size
        firsts = [first for first in range(len(whole)) if ring[first : first + len(streams[0])] == streams[0]]
        assert any(
            all(
                ring[first + row * stretch :][: len(stream)] == stream
                and ring[len(whole) + first + row * stretch - 1 :][: len(stream)] == before[row]
                for row, stream in enumerate(streams)
            )
            for first in firsts
        )
        assert len(whole) - size * len(streams[0]) < size * (length + 1), "more than a rest is left out"

    def test_only_an_epoch_s_first_batch_starts(self, root):
        task = task_in(root, segment_length=20)
        per_epoch = task.num_batches("train", 4)
        starts = [batch.starts for batch in batches(task, "train", 4, 2 * per_epoch)]
        assert per_epoch > 2
        assert [bool(each.all()) for each in starts] == [index % per_epoch == 0 for index in range(2 * per_epoch)]
        assert all(each.all() or not each.any() for each in starts)

    def test_seeds_and_epochs_begin_elsewhere(self, root):
        task = task_in(root)
        per_epoch = task.num_batches("train", 2)
        drawn = [task.batch("train", index, 2, seed).targets for index, seed in ((0, 0), (0, 1), (per_epoch, 0))]
        assert not any(one.equal(two) for i, one in enumerate(drawn) for two in drawn[:i])

    def test_a_text_too_short_for_a_batch(self, root):
        with pytest.raises(
            ValueError, match=r"tokens make 50 streams of \d+, less than a segment: lower trainer.batch"
        ):
            task_in(root).batch("train", 0, 50, 0)


class TestEvaluation:
    @given(st.integers(1, 300), st.integers(0, 40), st.integers(1, 5), st.sampled_from(["validation", "test"]))
    def test_every_token_is_scored_once_after_its_context(self, root, segment, context, size, split):
        task = task_in(root, eval_segment_length=segment, eval_context=context)
        whole, scored = ids_of(task, split), []
        for batch in batches(task, split, size):
            assert batch.starts is None
            assert batch.mask.any(1).all()
            for inputs, targets, mask in zip(
                *(x.tolist() for x in (batch.inputs, batch.targets, batch.mask)), strict=True
            ):
                first = mask.index(True)
                assert first == (context if scored else 0)
                for step, counts in enumerate(mask):
                    if counts:
                        scored.append(targets[step])
                        read = inputs[: step + 1]
                        assert read == [0, *whole][len(scored) - len(read) :][: len(read)]
        assert scored == whole

    def test_shapes_and_kinds(self, root):
        task = task_in(root, eval_segment_length=9, eval_context=4)
        for split in SPLITS:
            batch = task.batch(split, 0, 3, 0)
            assert batch.inputs.shape == batch.targets.shape == batch.mask.shape
            assert batch.inputs.dtype == batch.targets.dtype == torch.int64
            assert batch.inputs.max() < task.spec.input_size == task.spec.output_size == len(task.vocabulary)

    @pytest.mark.parametrize("split", SPLITS)
    def test_batch_is_a_pure_function(self, root, split):
        task = task_in(root)
        first, again = (task.batch(split, 0, 2, 5) for _ in range(2))
        assert first.inputs.equal(again.inputs)
        assert first.targets.equal(again.targets)

    def test_no_batch_after_the_last(self, root):
        task = task_in(root)
        with pytest.raises(IndexError, match=r"test has \d+ batches, none number"):
            task.batch("test", task.num_batches("test", 4), 4, 0)

    def test_bytes_come_after_a_line_s_end(self, root):
        batch = task_in(root, tokens=Bytes()).batch("test", 0, 1, 0)
        assert batch.inputs[0, 0] == ord("\n")
        assert bytes(batch.targets[batch.mask].tolist()) == text(40, 2).encode()[: batch.mask.sum()]


class TestEvaluationInStreams:
    @given(st.integers(1, 300), st.integers(1, 40), st.sampled_from(["validation", "test"]))
    def test_every_token_is_scored_once_in_the_order_of_its_stream(self, root, length, streams, split):
        task = task_in(root, eval_segment_length=length, eval_streams=streams)
        whole, read = ids_of(task, split), [[] for _ in range(streams)]
        found = batches(task, split, 7)
        for number, batch in enumerate(found):
            assert batch.inputs.shape == batch.targets.shape == batch.mask.shape == (streams, length)
            assert batch.starts.tolist() == [number == 0] * streams
            for stream, *row in zip(
                read, batch.inputs.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True
            ):
                stream += [(before, token) for before, token, counts in zip(*row, strict=True) if counts]
        assert [token for stream in read for _, token in stream] == whole
        assert [before for stream in read for before, _ in stream] == [0, *whole[:-1]]
        assert {len(stream) for stream in read} <= {len(whole) // streams, len(whole) // streams + 1}
        assert all(batch.mask.all() for batch in found[:-1]), "only the last segment is filled up"
        assert found[-1].mask.any()

    def test_is_that_of_the_whole_text_read_at_once(self, root):
        ids = ids_of(task_in(root), "test")
        for streams, size in ((1, 5), (4, 64)):
            task = task_in(root, eval_streams=streams, eval_segment_length=13)
            model = LSTM(task.spec, 8, 1, 8).double()
            total, bounds = 0.0, [len(ids) * stream // streams for stream in range(streams + 1)]
            for first, last in pairwise(bounds):
                inputs = torch.tensor([[0, *ids][first:last]])
                with torch.no_grad():
                    logits = model(inputs)[0][0].log_softmax(-1)
                total -= sum(float(logits[step, token]) for step, token in enumerate(ids[first:last]))
            found = evaluate(model, task, "test", size, ALONE)
            assert found["perplexity"] == pytest.approx(math.exp(total / len(ids)), rel=1e-6)

    def test_carries_the_state_that_a_row_would_drop(self, root):
        """A model that counts the steps it has read must reach the stream's length."""
        task = task_in(root, eval_streams=2, eval_segment_length=10)
        model = Counting(task.spec)
        evaluate(model, task, "validation", 64, ALONE)
        assert model.seen == [10 * (number + 1) for number in range(task.num_batches("validation", 64))]

    def test_more_streams_than_tokens(self, root):
        with pytest.raises(ValueError, match=r"test has \d+ tokens, too few for 5000 streams: lower task.eval_streams"):
            task_in(root, eval_streams=5000).num_batches("test", 1)

    def test_no_segment_after_the_last(self, root):
        task = task_in(root, eval_streams=3)
        for index in (-1, task.num_batches("test", 1)):
            with pytest.raises(IndexError, match=r"test has \d+ segments, none number"):
                task.batch("test", index, 1, 0)

    @pytest.mark.parametrize("streams", [None, 2])
    def test_processes_together_count_every_batch_once(self, root, streams):
        task = task_in(root, eval_streams=streams, eval_segment_length=10)
        shares = [list(_batches(task, "test", 2, Processes(rank, 3, torch.device("cpu")))) for rank in range(3)]
        assert len({len(share) for share in shares}) == 1, "a sharded model needs them to run as many"
        counted = [batch for share in shares for batch, counts, _ in share if counts]
        assert [[last for *_, last in share].index(True) for share in shares] == [len(share) - 1 for share in shares]
        expected = batches(task, "test", 2)
        assert len(counted) == len(expected)
        assert sum(int(batch.mask.sum()) for batch in counted) == len(ids_of(task, "test"))
        if streams:
            assert all(batch.inputs.equal(other.inputs) for batch, other in zip(counted, expected, strict=True))

    @pytest.mark.long
    @pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
    def test_two_processes_count_every_token_once(self, root, tmp_path, parallel):
        words = ["model=lstm", "task=language_modelling", f"task.data_root={root}", "task.segment_length=9"]
        words += ["task.eval_streams=3", "task.eval_segment_length=10", "model.hidden_size=8", "trainer.batch_size=4"]
        words += ["trainer.max_steps=1", "trainer.carry_state=true", "logger.progress=none", "runtime.pictures=false"]
        words += ["runtime.device=cpu", f"runtime.parallel={parallel}", f"runtime.runs_dir={tmp_path}"]
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [*start, ROOT / "scripts" / "train.py", *words], capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (metrics,) = tmp_path.glob("*/metrics.jsonl")
        together = json.loads(metrics.read_text().splitlines()[-1])
        alone = evaluate_checkpoint(Evaluation(metrics.parent)).metrics["test"]
        assert alone == pytest.approx({name: together[name] for name in alone}, rel=1e-6)


class Counting(SequenceModel):
    """Outputs that don't matter; its state is how many steps a row has seen."""

    def __init__(self, spec):
        super().__init__()
        self.size, self.seen = spec.output_size, []

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1)

    def forward(self, inputs, state=None):
        state = (self.initial_state(len(inputs)) if state is None else state) + inputs.shape[1]
        self.seen.append(int(state[0]))
        return torch.zeros(*inputs.shape, self.size), state


class TestPerplexity:
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_is_that_of_the_whole_text_whatever_the_batches(self, root, size):
        """Summed token by token over one pass without any batches."""
        task = task_in(root, eval_segment_length=50, eval_context=1000)  # the whole text is every token's context
        model = LSTM(task.spec, 8, 1, 8)
        ids = ids_of(task, "test")
        with torch.no_grad():
            logits = model(torch.tensor([[0, *ids[:-1]]]))[0][0].log_softmax(-1)
            expected = math.exp(-sum(float(logits[step, token]) for step, token in enumerate(ids)) / len(ids))
            found = batches(task, "test", size)
            total = sum(float(task.loss(model(batch.inputs)[0], batch)) for batch in found)
        count = sum(int(batch.mask.sum()) for batch in found)
        derived = task.derived_metrics({"loss": total / count, "accuracy": 0.5})
        assert count == len(ids)
        assert derived["perplexity"] == pytest.approx(expected, rel=1e-5)
        assert derived["bits_per_token"] == pytest.approx(math.log2(expected), rel=1e-5)

    def test_is_written_beside_the_loss_it_comes_from(self, root, tmp_path):
        words = (f"task.data_root={root}", "task.segment_length=9", "trainer.batch_size=4", "trainer.max_steps=2")
        words += ("model.hidden_size=8", "trainer.eval_every=2", "trainer.log_every=1", "logger.progress=none")
        config = with_defaults(compose(["model=lstm", "task=language_modelling", *words]).config)
        experiment = build(config)
        make_trainer(experiment, tmp_path, RunLogger(tmp_path, experiment.logger, config), ALONE).fit()
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert {row["split"] for row in rows} >= {"train", "validation"}
        for row in rows:
            assert row["perplexity"] == math.exp(row["loss"])
            assert list(row)[3:5] == ["loss", "perplexity"]

    def test_of_uniform_outputs_is_the_vocabulary_size(self, root):
        task = task_in(root)
        batch = task.batch("train", 0, 4, 0)
        loss = task.loss(torch.zeros(*batch.mask.shape, task.spec.output_size), batch) / batch.mask.sum()
        assert perplexity(float(loss)) == pytest.approx(task.spec.output_size, rel=1e-5)

    def test_overflows_to_infinity(self):
        assert perplexity(1e4) == math.inf

    def test_loss_and_metrics_count_masked_places_only(self, root):
        task = task_in(root, eval_segment_length=50, eval_context=30)
        batch = task.batch("test", 0, 100, 0)
        outputs = task.oracle(batch)
        noise = torch.where(batch.mask[..., None], 0, 5 * torch.randn_like(outputs))
        assert not batch.mask.all()
        assert_close(task.loss(outputs + noise, batch), task.loss(outputs, batch))
        assert task.metrics(outputs + noise, batch) == task.metrics(outputs, batch)
        assert list(task.metrics(outputs, batch)) == list(task.metric_names)
        right = (outputs.argmax(-1) == batch.targets)[batch.mask]
        assert task.metrics(outputs, batch)["accuracy"] == (right.sum(), batch.mask.sum())


class TestOracle:
    def test_equals_a_loop_over_counts(self, root):
        task = task_in(root, tokens=Words(max_size=8))
        train, size = ids_of(task, "train"), len(task.vocabulary)
        counts, pairs = Counter(train), Counter(pairwise(train))
        batch = task.batch("test", 0, 2, 0)
        found = task.oracle(batch)
        for step in range(20):
            before = int(batch.inputs[0, step])
            after = [pairs[before, word] for word in range(size)]
            different = max(sum(count > 0 for count in after), 1)
            for word in range(size):
                alone = (counts[word] + 1) / (len(train) + size)
                p = (after[word] + different * alone) / (sum(after) + different)
                assert float(found[0, step, word]) == pytest.approx(math.log(p), rel=1e-4)

    def test_is_a_distribution_even_after_what_was_never_seen(self):
        bigrams = count_bigrams(torch.tensor([0, 1, 0, 1, 1]), 4)
        assert_close(bigrams.log_probabilities(torch.arange(4)).exp().sum(-1), torch.ones(4))

    def test_beats_counting_words_alone(self, tmp_path):
        task = task_in(write_text(tmp_path, train="a b c a b d\n" * 30, test="a b c a b d\n" * 20))
        batch = task.batch("test", 0, 100, 0)
        alone = task._bigrams.unigram.log().expand(*batch.mask.shape, -1)
        assert task.loss(task.oracle(batch), batch) < task.loss(alone, batch)


class TestUnknown:
    def test_share_of_words_outside_the_vocabulary(self, tmp_path):
        write_text(tmp_path, train="a b a\n" * 50, valid="a c d\n" * 5)
        task = task_in(tmp_path)
        assert task.unknown_share("train") == 0
        assert task.unknown_share("validation") == pytest.approx(2 / 4)
        assert task_in(tmp_path, tokens=Bytes()).unknown_share("validation") == 0


@pytest.mark.parametrize("field", ["segment_length", "eval_segment_length", "eval_context", "eval_streams"])
def test_sizes_too_small(field):
    with pytest.raises(ValueError, match=rf"LanguageModelling\.{field} must be at least [01](, or null)?, not -1"):
        task_in("nowhere", **{field: -1})
