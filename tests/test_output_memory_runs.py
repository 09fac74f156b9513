"""Neural cache and kNN-LM on a trained model: what is read, tuned on validation and measured once on the test."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from test_generate import folder, only_the_folder_a_test_names  # noqa: F401  # fixtures
from test_output_memory import cache_by_loop
from tiny import ALONE, script, tiny_config
from torch.testing import assert_close

from memnets import output_memory
from memnets.analysis.runs import read_run
from memnets.analysis.tables import measurements
from memnets.identity import run_folder
from memnets.launch import train
from memnets.memory.output.datastore import Datastore, DatastoreError
from memnets.memory.output.neural_cache import NeuralCache
from memnets.models.base import read_hidden
from memnets.output_memory import SHARES, Wanted, loss, measure, read_entries, recall, tune
from memnets.trained import read_language_model, weights_hash
from memnets.training.evaluation import evaluate

QUIET = Console(quiet=True)


@pytest.fixture
def trained(folder):  # noqa: F811
    return read_language_model(folder, ["task.eval_segment_length=7"])


def whole(trained, split):
    """A text read at once: what the head reads, log-probabilities and the words that follow."""
    ids = trained.task._texts.splits[split].long()
    with torch.no_grad():
        hidden, outputs, _ = read_hidden(trained.model, torch.cat([torch.tensor([trained.task.end]), ids[:-1]])[None])
    return hidden[0], outputs[0].log_softmax(-1), ids


class TestRecall:
    def test_model_alone_is_what_evaluation_gives(self, trained, folder):  # noqa: F811
        streams = read_language_model(folder, ["task.eval_streams=3", "task.eval_segment_length=7"])
        for one in (trained, streams):
            found = recall(one, "test", {}, {}, QUIET)
            assert found["model"].shape == (1, one.task.num_tokens("test"))
        carried = evaluate(streams.model, streams.task, "test", 1, ALONE)
        assert loss(found, {}, {}) == pytest.approx(carried["loss"], rel=1e-6)

    def test_cache_goes_on_from_segment_to_segment(self, trained):
        cache = NeuralCache(trained.model.head.in_features, 20)
        found = recall(trained, "validation", {"cache": cache}, {"cache": [0.5, 2.0]}, QUIET)
        hidden, own, ids = whole(trained, "validation")
        for row, theta in enumerate((0.5, 2.0)):
            expected = cache_by_loop_of(hidden, own, ids, 20, theta)
            assert_close(found["cache"][row].exp(), expected, rtol=1e-3, atol=1e-6)

    def test_knn_lm_reads_the_entries_of_the_training_text(self, trained):
        keys, words = read_entries(trained, trained.task.num_tokens("train"), QUIET)
        assert words.bincount().equal(trained.task._texts.splits["train"].bincount())
        found = recall(trained, "validation", {"knn_lm": Datastore(keys, words, 3)}, {"knn_lm": [2.0]}, QUIET)
        hidden, _, ids = whole(trained, "validation")
        for step in range(1, len(ids), 17):  # at 0 all entries that begin a stream are equally near
            apart = (keys - hidden[step]).double().square().sum(-1)
            nearest = apart.argsort()[:3]
            weights = (-2 * apart[nearest]).softmax(-1)
            expected = float(weights[words[nearest] == ids[step]].sum())
            assert float(found["knn_lm"][0, step].exp()) == pytest.approx(expected, rel=1e-3, abs=1e-6)

    def test_few_probes_are_what_measure_passes_on(self, trained):
        """All cells: as exact search."""
        pytest.importorskip("faiss")
        exact, probed = (measure(Wanted(trained.folder, "knn_lm", k=3, probes=n), QUIET).rows for n in (None, 1000))
        assert probed[1].test == pytest.approx(exact[1].test, rel=1e-4)
        written = (trained.folder / "evaluations.jsonl").read_text().splitlines()
        assert [json.loads(line)["output_memory"]["probes"] for line in written] == [None, 1000]

    def test_entries_are_what_the_head_reads_before_each_word(self, folder):  # noqa: F811
        """In one stream they are those of the whole text read at once, and so many of them as were asked for."""
        trained = read_language_model(folder, ["trainer.eval_batch_size=1", "task.eval_segment_length=7"])
        keys, words = read_entries(trained, 100, QUIET)
        hidden, _, ids = whole(trained, "train")
        assert_close(keys, hidden[:100])
        assert words.tolist() == ids[:100].tolist()

    def test_entries_of_several_streams_leave_out_what_fills_a_segment(self, folder):  # noqa: F811
        trained = read_language_model(folder, ["trainer.eval_batch_size=5", "task.eval_segment_length=7"])
        ids = trained.task._texts.splits["train"].long()
        keys, words = read_entries(trained, len(ids), QUIET)
        bounds = [len(ids) * stream // 5 for stream in range(6)]
        assert len({(last - first) % 7 for first, last in pairwise(bounds)}) > 1, "streams end at different steps"
        expected = []
        for first, last in pairwise(bounds):
            inputs = torch.cat([torch.tensor([trained.task.end]), ids])[first:last]
            with torch.no_grad():
                hidden, _, _ = read_hidden(trained.model, inputs[None])
            expected.append(torch.cat([hidden[0], ids[first:last, None]], 1))
        found = torch.cat([keys, words[:, None]], 1)
        in_order, as_read = (rows[rows.sum(-1).argsort()] for rows in (torch.cat(expected), found))
        assert_close(as_read.sum(-1), in_order.sum(-1))

    def test_refuses_the_text_that_is_in_the_datastore(self, trained):
        store = Datastore(torch.zeros(2, trained.model.head.in_features), torch.zeros(2, dtype=torch.int32), 1)
        with pytest.raises(ValueError, match="the training text is in the datastore"):
            recall(trained, "train", {"knn_lm": store}, {"knn_lm": [1.0]}, QUIET)


def cache_by_loop_of(hidden, own, ids, size, theta):
    rows = cache_by_loop(hidden.tolist(), ids.tolist(), size, theta, own.shape[-1])
    probabilities = [own[step].exp().tolist() if row is None else row for step, row in enumerate(rows)]
    return torch.tensor([row[word] for row, word in zip(probabilities, ids.tolist(), strict=True)]).double()


class TestTuning:
    def test_finds_the_best_of_all_that_is_tried(self):
        """By a loop over every strength and share, with probabilities rather than logs."""
        generator = torch.Generator().manual_seed(0)
        recalled = {
            name: torch.rand(rows, 50, generator=generator, dtype=torch.float64).log()
            for name, rows in {"model": 1, "cache": 3, "knn_lm": 2}.items()
        }
        tried = {"cache": [1.0, 2.0, 3.0], "knn_lm": [1.0, 5.0]}

        def mean(*weighted):
            return -float(sum(share * part.exp() for share, part in weighted).log().mean())

        cache, knn, both = tune(recalled, tried)
        for name, found in {"cache": cache, "knn_lm": knn}.items():
            grid = {
                (strength, share): mean((1 - share, recalled["model"][0]), (share, recalled[name][row]))
                for row, strength in enumerate(tried[name])
                for share in SHARES
            }
            assert (found[name].strength, found[name].share) == min(grid, key=grid.__getitem__)
            assert loss(recalled, found, tried) == pytest.approx(min(grid.values()))
            assert found[name].at_edge == (found[name].strength in (min(tried[name]), max(tried[name])))
        rows = [recalled[name][tried[name].index(both[name].strength)] for name in tried]
        assert [both[name].strength for name in tried] == [cache["cache"].strength, knn["knn_lm"].strength]
        shares = [(a, b) for a in SHARES for b in SHARES if a + b <= 0.9]
        best = min(mean((1 - a - b, recalled["model"][0]), (a, rows[0]), (b, rows[1])) for a, b in shares)
        assert loss(recalled, both, tried) == pytest.approx(best)
        assert loss(recalled, both, tried) <= min(loss(recalled, one, tried) for one in (cache, knn))

    def test_a_memory_that_knows_nothing_gets_no_share(self):
        recalled = {"model": torch.full((1, 9), -1.0), "cache": torch.full((2, 9), -torch.inf)}
        (found,) = tune(recalled, {"cache": [0.0, 1.0]})
        assert found["cache"].share == 0
        assert loss(recalled, found, {"cache": [0.0, 1.0]}) == 1.0


class TestMeasure:
    def test_lines_are_the_model_each_memory_and_both(self, folder, monkeypatch):  # noqa: F811
        splits = []
        plain = output_memory.recall

        def listening(trained, split, *rest):
            splits.append(split)
            return plain(trained, split, *rest)

        monkeypatch.setattr(output_memory, "recall", listening)
        rows = measure(Wanted(folder, "both", size=30, k=4), QUIET).rows
        assert splits == ["validation", "test"], "the test is read once, after all is tuned"
        assert [list(row.memories) for row in rows] == [[], ["cache"], ["knn_lm"], ["cache", "knn_lm"]]
        alone = evaluate(*model_and_task(folder, ["task.eval_streams=1"]), "test", 1, ALONE)
        assert rows[0].test == pytest.approx(alone["perplexity"], rel=1e-5)
        assert all(row.validation <= rows[0].validation for row in rows)
        assert rows[2].test < rows[0].test, "two steps teach a model less than the training text tells"
        line = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
        assert [row["test"] for row in line["output_memory"]["rows"]] == [row.test for row in rows]
        assert line["output_memory"]["size"] == 30
        names = ("with_cache", "with_knn_lm", "with_cache_and_knn_lm")
        told = measurements(read_run(folder))
        assert {name: told[f"{name}/perplexity"] for name in names} == {
            name: row.test for name, row in zip(names, rows[1:], strict=True)
        }

    def test_records_take_the_last_measurement_of_the_model_as_it_was_trained(self, folder):  # noqa: F811
        before = measurements(read_run(folder))
        measure(Wanted(folder, "cache", size=7), QUIET)
        after = measurements(read_run(folder))
        assert after["with_cache/perplexity"] != before.get("with_cache/perplexity")
        measure(Wanted(folder, "cache", size=7, overrides=["task.eval_segment_length=5"]), QUIET)
        assert measurements(read_run(folder)) == after

    def test_a_datastore_serves_the_weights_it_was_built_with(self, folder):  # noqa: F811
        first = measure(Wanted(folder, "knn_lm", k=4), QUIET).rows
        written = (folder / "datastore" / "datastore.safetensors").stat().st_mtime_ns
        again = measure(Wanted(folder, "knn_lm", k=4), QUIET).rows
        assert [(row.validation, row.test) for row in first] == [(row.validation, row.test) for row in again]
        assert (folder / "datastore" / "datastore.safetensors").stat().st_mtime_ns == written
        with pytest.raises(DatastoreError, match="was built from other entries than asked for"):
            measure(Wanted(folder, "knn_lm", k=4, entries=50), QUIET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(output_memory, "weights_hash", lambda model: "another")
            with pytest.raises(DatastoreError, match="was built from other weights than asked for"):
                measure(Wanted(folder, "knn_lm", k=4), QUIET)

    def test_weights_have_a_hash(self, trained):
        before = weights_hash(trained.model)
        assert weights_hash(trained.model) == before
        with torch.no_grad():
            trained.model.head.bias[0].add_(1e-6)
        assert weights_hash(trained.model) != before

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["checkpoint=nowhere"], "no checkpoint at nowhere"),
            (["checkpoint={folder}", "kind=cash"], "kind=cash: choose cache, knn_lm or both"),
            (["checkpoint={folder}", "kind=cache", "size=0"], "NeuralCache.size must be at least 1"),
            (["checkpoint={folder}", "kind=knn_lm", "k=99999"], "k=99999 are recalled"),
            (["checkpoint={folder}", "entries=99999"], "entries=99999: the training text has"),
            (["checkpoint={folder}", "size=big"], "size=big: expected a whole number"),
        ],
    )
    def test_refusals_exit_with_2(self, folder, words, message, capsys):  # noqa: F811
        assert script("output_memory").main([word.format(folder=folder) for word in words]) == 2
        assert message in capsys.readouterr().err

    def test_the_script_prints_a_table(self, folder, capsys):  # noqa: F811
        assert script("output_memory").main([f"checkpoint={folder}", "kind=cache", "size=9"]) == 0
        assert "model + cache" in capsys.readouterr().out
        assert script("output_memory").main(["--help"]) == 0
        assert script("output_memory").main([]) == 2

    def test_refuses_what_is_no_language_model(self, tmp_path, capsys):
        config = tiny_config(f"runtime.runs_dir={tmp_path}")
        assert train(config) == 0
        assert script("output_memory").main([f"checkpoint={run_folder(config)}"]) == 2
        assert "holds no language model: its task is Copy" in capsys.readouterr().err


def model_and_task(path, overrides):
    found = read_language_model(path, overrides)
    return found.model, found.task
