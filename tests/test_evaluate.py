"""Evaluating a checkpoint: the same numbers as training's own test, other lengths, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import script, tiny_config

from memnets.evaluate import Evaluation, evaluate_checkpoint
from memnets.identity import run_folder
from memnets.launch import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(f"runtime.runs_dir={tmp_path_factory.mktemp('runs')}", "trainer.ema_decay=0.5")
    assert train(config) == 0
    return run_folder(config)


def test_a_checkpoint_gives_the_numbers_its_training_ended_with(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tested = {row["split"]: row for row in rows if row["split"] not in ("train", "validation")}
    results = evaluate_checkpoint(Evaluation(folder)).metrics
    assert list(results) == list(tested) == ["test", "length_4"]
    for name, metrics in results.items():
        assert metrics == {key: tested[name][key] for key in metrics}


def test_other_lengths_and_settings(folder: Path) -> None:
    results, references, stages = evaluate_checkpoint(
        Evaluation(folder / "checkpoints" / "step_00000006", "train", [2, 7], ["task.eval_sequences=4"])
    )
    assert list(results) == ["length_2", "length_7"]
    row = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert row["metrics"] == results
    assert row["references"] == references
    assert row["stages"].keys() == row["examples"].keys() == stages.keys() == results.keys()
    assert row["checkpoint"] == "step_00000006"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint={nowhere}"], "no checkpoint at"),
        (["checkpoint={folder}", "split=tests"], "expected one of train, validation, test"),
        (["checkpoint={folder}", "task.max_lengt=3"], "did you mean task.max_length?"),
        (["checkpoint={folder}", "lengths=0"], "1 <= min <= max"),
        (["checkpoint={folder}", "lengths=long"], "long"),
        (["checkpoint={folder}", "model.hidden_size=9"], "does not fit this model"),
    ],
)
def test_refusals_exit_with_2(
    folder: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(folder=folder, nowhere=tmp_path / "nowhere") for word in words]
    assert script("evaluate").main(filled) == 2
    assert message in capsys.readouterr().err


def test_the_script_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("evaluate").main([f"checkpoint={folder}"]) == 0
    assert "bit_errors" in capsys.readouterr().out
    assert script("evaluate").main([f"checkpoint={folder}", "lengths=2,5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "evaluation" / "error_by_length.png")
    assert script("evaluate").main(["--help"]) == 0
    assert script("evaluate").main([]) == 2
