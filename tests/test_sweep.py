"""Runs in their folders and in processes of their own: signals, exit codes, locks, sweeps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_training import STREAM, files
from tiny import ALONE, ROOT, TINY, tiny_config

from memnets.config import check, compose, with_defaults
from memnets.contracts import Spec
from memnets.identity import run_folder
from memnets.launch import train
from memnets.models.lstm import LSTM
from memnets.sweep import Sweep
from memnets.training.run import DONE, FAILED, INTERRUPTED, NOT_FINITE, REFUSED, find_checkpoint, locked, status_of
from memnets.training.trainer import Trainer

NTM = ("model=ntm", "~model.hidden_size", "~model.num_layers", "model.memory_size=5", "task.min_length=3")
TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py")]


def command(runs: Path, *overrides: str) -> list[str]:
    """A tiny run as one types it."""
    return [*TRAIN, *TINY, f"runtime.runs_dir={runs}", *overrides]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


class TestRun:
    def test_a_finished_run_leaves_its_files_and_is_left_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}")
        assert train(config) == DONE
        folder = run_folder(config)
        assert status_of(folder)["status"] == "done"
        assert status_of(folder)["outcome"] == "max_steps"
        environment = json.loads((folder / "environment.json").read_text())
        assert {"command", "commit", "dirty", "torch", "python", "cpu", "num_threads"} <= set(environment)
        before = (folder / "metrics.jsonl").stat().st_mtime_ns
        assert train(config) == DONE
        assert "is finished already" in capsys.readouterr().err
        assert (folder / "metrics.jsonl").stat().st_mtime_ns == before

    def test_training_anew_keeps_the_old_folder(self, tmp_path: Path) -> None:
        assert train(tiny_config(f"runtime.runs_dir={tmp_path}")) == DONE
        assert train(tiny_config(f"runtime.runs_dir={tmp_path}", "runtime.resume=never")) == DONE
        folders = sorted(path.name for path in tmp_path.glob("lstm*"))
        assert len(folders) == 2
        assert ".old-" in folders[1]
        assert files(tmp_path / folders[0]) == files(tmp_path / folders[1])

    def test_resuming_from_a_checkpoint_of_another_run(self, tmp_path: Path) -> None:
        first = tiny_config(f"runtime.runs_dir={tmp_path}", "trainer.max_steps=3")
        assert train(first) == DONE
        further = tiny_config(f"runtime.runs_dir={tmp_path}", f"runtime.resume={run_folder(first)}")
        assert train(further) == DONE
        steps = [json.loads(line)["step"] for line in (run_folder(further) / "metrics.jsonl").read_text().splitlines()]
        assert min(steps) > 3
        assert status_of(run_folder(further))["step"] == 6

    def test_of_a_run_cut_off_after_resuming_the_newest_checkpoint_is_taken(self, tmp_path: Path) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}", "trainer.save_every=3")
        assert train(config) == DONE
        folder = run_folder(config)
        cut = {**status_of(folder), "status": "running", "tested_checkpoint": "step_00000003"}  # where it resumed
        (folder / "status.json").write_text(json.dumps(cut))
        assert find_checkpoint(folder).name == "step_00000006"
        (folder / "status.json").write_text(json.dumps({**cut, "status": "done"}))  # early stopping chose it
        assert find_checkpoint(folder).name == "step_00000003"

    def test_a_checkpoint_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}", f"runtime.resume={tmp_path / 'nowhere'}")
        assert train(config) == REFUSED
        assert "no checkpoint at" in capsys.readouterr().err

    def test_not_finite_has_its_own_exit_code(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}", "optim=sgd", "optim.weight_decay=1e30")
        assert train(config) == NOT_FINITE
        status = status_of(run_folder(config))
        assert status["status"] == "failed"
        assert "not finite" in status["error"]
        assert (run_folder(config) / "traceback.txt").exists()

    @pytest.mark.parametrize(
        ("overrides", "code", "message"),
        [
            (
                ("task=babi", "model=memn2n", "task.number=1", "~model.hidden_size", "~model.num_layers"),
                REFUSED,
                "missing",
            ),
            (("model._target_=test_sweep.Broken",), FAILED, "broken on purpose"),
        ],
    )
    def test_what_fails_before_training_leaves_its_status(
        self,
        tmp_path: Path,
        overrides: tuple[str, ...],
        code: int,
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("MEMNETS_DATA", str(tmp_path / "nowhere"))
        words = [word for word in TINY if not (word.startswith("task.") and "task=babi" in overrides)]
        config = with_defaults(compose([*words, f"runtime.runs_dir={tmp_path}", *overrides]).config)
        check(config)
        assert train(config) == code
        status = status_of(run_folder(config))
        assert status["status"] == "failed"
        assert message in status["error"]
        assert message in (run_folder(config) / "traceback.txt").read_text()

    def test_two_processes_never_share_a_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}")
        with locked(run_folder(config), ALONE):
            assert train(config) == REFUSED
        assert "is in use" in capsys.readouterr().err

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    def test_a_signal_saves_and_the_same_run_goes_on(
        self, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight, cut = (tiny_config(f"runtime.runs_dir={tmp_path / name}") for name in ("straight", "cut"))
        assert train(straight) == DONE
        before = signal.getsignal(number)
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "train_step", raising(number, Trainer.train_step))
            assert train(cut) == INTERRUPTED
        assert signal.getsignal(number) == before
        assert status_of(run_folder(cut))["status"] == "interrupted"
        assert status_of(run_folder(cut))["step"] == 4
        assert train(cut) == DONE
        assert files(run_folder(cut)) == files(run_folder(straight))

    def test_a_terminated_process_exits_with_75(self, tmp_path: Path) -> None:
        process = subprocess.Popen(command(tmp_path, "trainer.max_steps=100000"), stderr=subprocess.PIPE, text=True)
        folder = wait_for_folder(tmp_path, "metrics.jsonl")
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == INTERRUPTED, errors
        assert "SIGTERM: saving a checkpoint" in errors
        assert status_of(folder)["status"] == "interrupted"


class Broken(LSTM):
    """A model with a bug in its constructor."""

    def __init__(self, spec: Spec, hidden_size: int, num_layers: int) -> None:
        raise RuntimeError("broken on purpose")


def raising(number: signal.Signals, step: Callable[[Trainer], bool]) -> Callable[[Trainer], bool]:
    """A training step that receives a signal in the fourth."""

    def stepping(trainer: Trainer) -> bool:
        if trainer.progress.step == 3:
            signal.raise_signal(number)
        return step(trainer)

    return stepping


def wait_for_folder(runs: Path, name: str) -> Path:
    """The run folder below `runs`, as soon as a file in it has content."""
    for _ in range(600):
        found = [path for path in runs.glob(f"*/{name}") if path.stat().st_size]
        if found:
            return found[0].parent
        time.sleep(0.05)
    raise TimeoutError(f"no {name} below {runs}")


class TestSweep:
    def test_finished_runs_are_skipped_and_failed_ones_listed(self, tmp_path: Path) -> None:
        sweep = (*command(tmp_path, "optim=sgd", "optim.weight_decay=0.0,1e30"), "-m")
        first = call(*sweep, "runtime.jobs=2")
        assert first.returncode == FAILED, first.stderr
        assert "2 runs, 0 finished already" in first.stdout
        assert "failed: " in first.stdout
        assert "optim.weight_decay=1e+30" in first.stdout
        assert "not finite" in first.stdout
        again = call(*sweep)
        assert again.returncode == FAILED
        assert "2 runs, 1 finished already" in again.stdout
        anew = call(*sweep, "runtime.resume=never", "optim.weight_decay=0.0,0.1")
        assert "2 runs, 0 finished already" in anew.stdout
        done = [path for path in tmp_path.glob("lstm*") if status_of(path)["status"] == "done"]
        assert len(done) == 3, "the old folder, the same trained anew, and another"
        recorded = json.loads((done[0] / "environment.json").read_text())["command"]
        assert "optim.weight_decay=0.0,1e30" in recorded, "a job records the sweep's command"

    @pytest.mark.long
    def test_a_terminated_sweep_saves_its_jobs_and_goes_on_later(self, tmp_path: Path) -> None:
        sweep = (
            *command(tmp_path, "seed=0,1", "trainer.max_steps=150", "trainer.eval_every=150"),
            "-m",
            "runtime.jobs=2",
        )
        process = subprocess.Popen(sweep, stdout=subprocess.PIPE, text=True)
        wait_for_folder(tmp_path, "metrics.jsonl")
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == INTERRUPTED
        cut = [path for path in tmp_path.glob("lstm*") if status_of(path).get("status") == "interrupted"]
        assert cut, "no job had the time to save"
        assert all(list((path / "checkpoints").glob("step_*")) for path in cut)
        assert call(*sweep).returncode == DONE
        assert [status_of(path)["status"] for path in tmp_path.glob("lstm*")] == ["done", "done"]


@pytest.mark.parametrize(("given", "side_by_side", "threads"), [(None, 2, "4"), (None, 9, "1"), ("3", 2, "3")])
def test_jobs_share_the_threads_unless_the_caller_says_how_many(given, side_by_side, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert Sweep([], side_by_side, tmp_path)._environment()["OMP_NUM_THREADS"] == threads


class TestTwoProcesses:
    """Gloo on CPUs: the same data, the same bits after resuming, sharded or not."""

    def torchrun(self, runs: Path, *overrides: str) -> Path:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", TRAIN[1]]
        done = subprocess.run(
            [*words, *TINY, f"runtime.runs_dir={runs}", "runtime.device=cpu", *overrides],
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return next(path for path in runs.iterdir() if path.name != ".locks")

    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param(("trainer.ema_decay=0.9", "runtime.pictures=true"), id="ddp", marks=pytest.mark.long),
            pytest.param(("trainer.ema_decay=0.9", "runtime.parallel=fsdp", "runtime.pictures=true"), id="fsdp"),
            pytest.param(("trainer.accumulate=2",), id="accumulating", marks=pytest.mark.long),
            pytest.param((*NTM, "trainer.bptt_length=2"), id="truncated", marks=pytest.mark.long),
        ],
    )
    def test_two_processes_learn_as_one_that_accumulates(self, tmp_path: Path, overrides: tuple[str, ...]) -> None:
        two = self.torchrun(tmp_path / "two", *overrides)
        alone = [word for word in overrides if not word.startswith(("runtime", "trainer.accumulate"))]
        times = 4 if "trainer.accumulate=2" in overrides else 2
        one = tiny_config(f"runtime.runs_dir={tmp_path / 'one'}", *alone, f"trainer.accumulate={times}")
        assert train(one) == DONE
        for alone_row, together in zip(rows(run_folder(one)), rows(two), strict=True):
            assert alone_row == pytest.approx(together, rel=1e-3), (alone_row, together)
        assert (two / "learning_curve.png").exists() == ("runtime.pictures=true" in overrides)

    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param((), id="ddp", marks=pytest.mark.long),
            pytest.param(("runtime.parallel=fsdp",), id="fsdp", marks=pytest.mark.long),
            pytest.param(STREAM, id="carried", marks=pytest.mark.long),
        ],
    )
    def test_two_processes_resume_bit_for_bit(self, tmp_path: Path, overrides: tuple[str, ...]) -> None:
        given = (*overrides, "trainer.ema_decay=0.9", "trainer.save_every=3")
        straight = self.torchrun(tmp_path / "straight", *given)
        cut = Path(shutil.copytree(tmp_path / "straight", tmp_path / "cut")) / straight.name
        roll_back(cut, 3)
        self.torchrun(tmp_path / "cut", *given)
        assert files(cut) == files(straight)


def rows(folder: Path) -> list[dict[str, float]]:
    """Metrics rows without their words."""
    parsed = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "split"} for row in parsed]


def roll_back(folder: Path, step: int) -> None:
    """Leave a run folder as a kill after a checkpoint would have: that one there, the status still `running`."""
    for path in (folder / "checkpoints").glob("step_*"):
        if path.name != f"step_{step:08d}":
            shutil.rmtree(path)
    status = status_of(folder)
    (folder / "status.json").write_text(json.dumps({**status, "status": "running"}))
