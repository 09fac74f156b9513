"""What metrics are compared with: chance and oracle, in the run's folder, beside evaluations and in reports."""

from __future__ import annotations

import json
import re

import pytest
import torch
from run_folders import write_run
from tiny import ALONE, script, tiny_config, tiny_trainer

from memnets.analysis.report import make_report, write_report
from memnets.analysis.runs import RunError, find_runs, read_run
from memnets.contracts import Spec
from memnets.identity import run_folder
from memnets.launch import train
from memnets.models.base import SequenceModel
from memnets.summary import summary
from memnets.tasks.base import NoOracleError
from memnets.tasks.copy import Copy
from memnets.tasks.ngrams import DynamicNGrams
from memnets.tasks.overwrite import Overwrite
from memnets.tasks.segmented_copy import SegmentedCopy
from memnets.training.evaluation import evaluate
from memnets.training.references import references, run_references
from memnets.training.run import INTERRUPTED
from memnets.training.trainer import Trainer

RECALL = ("task=overwrite", "~task.max_length", "~task.test_lengths")
PAGE = {
    "chance": {"test/bit_errors": 0.125},
    "oracle": {"test/bit_errors": 0.0625, "test/loss": 0.01, "length_9/bit_errors": 0.3},
}


class Oracle(SequenceModel):
    """A task's oracle as a model, so that `evaluate` judges it."""

    def __init__(self, task):
        super().__init__()
        self.task, self.spec = task, Spec("tokens", 1, 1)

    def initial_state(self, batch_size):
        return ()

    def forward(self, inputs, state=None):
        batch = next(batch for batch in self.batches if batch.inputs is inputs or batch.inputs.equal(inputs))
        return self.task.oracle(batch), ()


class TestReferences:
    @pytest.mark.parametrize("task", [Overwrite(eval_sequences=20), DynamicNGrams(eval_sequences=20, num_steps=30)])
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_the_oracle_is_judged_as_a_model_is_on_the_same_data(self, task, split):
        model = Oracle(task)
        model.batches = [task.batch(split, index, 8, 0) for index in range(3)]
        assert references(task, split, 8)["oracle"] == evaluate(model, task, split, 8, ALONE)

    def test_chance_is_the_task_s(self):
        assert references(Overwrite(eval_sequences=8), "test", 8)["chance"] == Overwrite().chance
        assert list(references(Copy(eval_sequences=8), "test", 8)) == ["oracle"]

    def test_a_task_without_oracle_has_none(self, monkeypatch):
        def unknown(task, batch):
            raise NoOracleError("nobody knows")

        monkeypatch.setattr(Overwrite, "oracle", unknown)
        assert references(Overwrite(eval_sequences=8), "test", 8) == {"chance": Overwrite().chance}

    def test_a_mistake_in_an_oracle_is_not_hidden(self, monkeypatch):
        monkeypatch.setattr(Copy, "oracle", lambda task, batch: int("x"))
        with pytest.raises(ValueError, match="invalid literal"):
            references(Copy(eval_sequences=8), "test", 8)

    def test_of_a_run_are_those_of_its_first_test_set(self):
        found = run_references(Overwrite(eval_sequences=8), 8)
        assert found["chance"]["test/stale_error"] == 1 / 32
        assert found["oracle"]["test/remote_accuracy"] == 1
        assert all(name.startswith("test/") for metrics in found.values() for name in metrics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny_config(f"runtime.runs_dir={tmp_path_factory.mktemp('runs')}", *RECALL)
    assert train(config) == 0
    return run_folder(config)


class TestRun:
    def test_its_folder_tells_them(self, folder):
        expected = run_references(Overwrite(eval_sequences=12), 64)
        assert json.loads((folder / "references.json").read_text()) == expected
        assert read_run(folder).references == expected

    def test_the_summary_of_a_run_tells_them(self, folder):
        told = summary(folder, [], []).splitlines()[1]
        assert re.search(r"accuracy: test [\d.]+ \(chance [\d.]+, oracle 1\)$", told), told

    def test_evaluation_prints_them_below_the_sets(self, folder, capsys):
        assert script("evaluate").main([f"checkpoint={folder}", "lengths=6,7"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows = {line[1]: line[2:] for line in lines if len(line) > 2 and line[0] == "│"}
        assert list(rows) == ["length_6", "from", "to", "length_7", "chance", "oracle"]
        names = next(line for line in lines if "remote_accuracy" in line)
        found = {name: [cell for cell in rows[name] if cell != "│"] for name in ("chance", "oracle")}
        columns = [name for name in names if name not in ("┃", "set")]
        assert found["chance"][columns.index("remote_accuracy")] == "0.03125"
        assert found["oracle"][columns.index("remote_accuracy")] == "1"
        assert found["chance"][columns.index("loss")] == "–"

    def test_an_interrupted_run_has_none_yet(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Trainer, "train_step", Trainer.interrupt)
        monkeypatch.setattr(Trainer, "goes_on", property(lambda trainer: not trainer._interrupted))
        config = tiny_config(f"runtime.runs_dir={tmp_path}", *RECALL)
        assert train(config) == INTERRUPTED
        assert (run_folder(config) / "status.json").exists()
        assert not (run_folder(config) / "references.json").exists()

    def test_steps_that_count_nowhere_still_train(self, tmp_path):
        """In a stream of a copy only the last segments are judged: the others' gradients are zero."""
        trainer = tiny_trainer(
            tmp_path, "task=segmented_copy", *RECALL[1:], "task.stream=true", "trainer.carry_state=true",
            "trainer.max_steps=8",
        )  # fmt: skip
        assert isinstance(trainer.task, SegmentedCopy)
        before = [weight.clone() for weight in trainer.weights]
        trainer.train_step()
        assert all(weight.equal(old) for weight, old in zip(trainer.weights, before, strict=True))
        assert trainer.fit() == "max_steps"
        assert all(torch.isfinite(weight).all() for weight in trainer.weights)
        assert not any(weight.equal(old) for weight, old in zip(trainer.weights, before, strict=True))


class TestReport:
    def with_references(self, root):
        folders = [write_run(root / "runs", seed=seed) for seed in range(3)]
        for folder in folders:
            (folder / "references.json").write_text(json.dumps(PAGE))
        write_run(root / "runs", name="lstm_copy")
        return make_report(*find_runs([root / "runs"]))

    def test_columns_stand_beside_the_metrics_they_are_of(self, tmp_path):
        header, *rows = self.with_references(tmp_path).rows()
        assert header[4:6] == ("chance", "oracle")
        told = {row[:2]: row[4:6] for row in rows}
        assert told.pop(("ntm_copy", "test/bit_errors")) == ("0.125", "0.0625")
        assert ("ntm_copy", "length_40/bit_errors") in told
        assert set(told.values()) == {("", "")}

    def test_no_column_where_no_run_tells_it(self, tmp_path):
        folder = write_run(tmp_path)
        assert make_report(*find_runs([folder])).rows()[0][3:5] == ("mean ± std", "median (quartiles)")
        (folder / "references.json").write_text(json.dumps({"oracle": PAGE["oracle"]}))
        assert make_report(*find_runs([folder])).rows()[0][3:5] == ("mean ± std", "oracle")

    def test_the_page_says_what_they_are(self, tmp_path):
        text = write_report(self.with_references(tmp_path), tmp_path / "out").read_text()
        assert ">chance</th>" in text
        assert '<td class="number">0.0625</td>' in text
        assert "Chance: what guessing gets." in text
        write_run(tmp_path / "plain")
        assert "Chance:" not in write_report(make_report(*find_runs([tmp_path / "plain"])), tmp_path).read_text()

    def test_a_file_that_can_t_be_read_is_named(self, tmp_path):
        folder = write_run(tmp_path)
        (folder / "references.json").write_text("{")
        with pytest.raises(RunError, match=r"references\.json can't be read"):
            read_run(folder)
