"""Replicas: each is the run its seed would be alone, whatever becomes of the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from babi_example import write_babi
from test_phases import FIXED, LINEAR, STORIES
from test_training import files
from tiny import ALONE, TINY, tiny_config, tiny_trainer
from torch.func import vmap
from torch.testing import assert_close

from memnets.check import ConfigError
from memnets.identity import run_folder, run_folders
from memnets.launch import train
from memnets.streams import replica_streams, uniform
from memnets.sweep import plan
from memnets.training import checkpoint
from memnets.training.replica_runs import ReplicaRuns
from memnets.training.replicas import ReplicaError, Replicas
from memnets.training.run import DONE, INTERRUPTED, NOT_FINITE, REFUSED, status_of
from memnets.training.trainer import Trainer

MODELS = {
    "linear start": LINEAR,
    "linear start by steps": (*LINEAR, FIXED),
    "noise": ("model=memn2n", *STORIES, "model.random_noise=0.5", "trainer.clip_norm=0.01"),
    "layerwise": ("model=memn2n", *STORIES, "model.weight_tying=layerwise", "trainer.clip_norm_each=0.01"),
    "authors": (
        "model=memn2n",
        *STORIES,
        "model.position_encoding=centred",
        "trainer.clip_spectral_each=0.01",
    ),
    "additive": (
        "model=memn2n",
        *STORIES,
        "model.attention_score={_target_: memnets.memory.attention_score.AdditiveScore, _partial_: true}",
    ),
    "entity network": ("model=entity_network", *STORIES, "model.memory_size=3", "trainer.ema_decay=0.9"),
    "accumulating": ("model=memn2n", *STORIES, "trainer.accumulate=2", "optim=sgd", "optim.momentum=0.9"),
}
STOPPING = "trainer.early_stopping={_target_: memnets.training.settings.EarlyStopping, patience: 1}"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Override that names a tiny bAbI."""
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return f"task.data_root={write_babi(tmp_path / 'data', 1)}"


@pytest.fixture
def double() -> Iterator[None]:
    """Models in float64, so that what is equal bar rounding is told from what is not."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(folder: Path, *overrides: str) -> list[Trainer]:
    """Three replicas, trained together to the end."""
    trainers = [tiny_trainer(folder / str(seed), *overrides, f"seed={seed}") for seed in range(3)]
    going = trainers
    for trainer in trainers:
        trainer.begin()
    while going := [trainer for trainer in going if trainer.goes_on]:
        assert Replicas(going).train_step() == {}
    for trainer in trainers:
        trainer.finish()
    return trainers


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run, in order."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("double")
class TestEqualTheirOwnRuns:
    @pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS)
    def test_each_equals_its_own_sequential_run(self, tmp_path: Path, data: str, overrides: tuple[str, ...]) -> None:
        together = trained(tmp_path / "together", *overrides, data)
        for seed, replica in enumerate(together):
            alone = tiny_trainer(tmp_path / "alone" / str(seed), *overrides, data, f"seed={seed}")
            assert alone.fit() == replica.progress.outcome
            assert_close(dict(replica.model.state_dict()), dict(alone.model.state_dict()), rtol=1e-8, atol=1e-9)
            ours, theirs = (metrics(tmp_path / way / str(seed)) for way in ("together", "alone"))
            assert [list(row) for row in ours] == [list(row) for row in theirs]
            for one, other in zip(ours, theirs, strict=True):
                assert one.pop("split") == other.pop("split")
                assert one == pytest.approx(other, rel=1e-7, abs=1e-9)

    def test_replicas_differ(self, tmp_path: Path, data: str) -> None:
        first, second, _ = trained(tmp_path, *MODELS["noise"], data)
        assert not torch.equal(first.weights[0], second.weights[0])

    def test_one_that_stops_early_leaves_the_others(self, tmp_path: Path, data: str) -> None:
        given = (*MODELS["noise"], data, STOPPING, "trainer.max_steps=20", "optim.lr=0.3", "trainer.eval_every=1")
        steps = [trainer.progress.step for trainer in trained(tmp_path / "together", *given)]
        alone = []
        for seed in range(3):
            trainer = tiny_trainer(tmp_path / "alone" / str(seed), *given, f"seed={seed}")
            trainer.fit()
            alone.append(trainer.progress.step)
        assert steps == alone
        assert len(set(steps)) > 1


class TestFolders:
    def test_one_command_makes_the_folders_of_the_runs_alone(self, tmp_path: Path, data: str) -> None:
        given = (*MODELS["noise"], data, f"runtime.runs_dir={tmp_path / 'runs'}")
        config = tiny_config(*given, "trainer.num_replicas=3")
        assert train(config) == DONE
        assert run_folders(config) == [run_folder(tiny_config(*given, f"seed={seed}")) for seed in range(3)]
        assert [status_of(folder)["status"] for folder in run_folders(config)] == ["done"] * 3
        assert train(tiny_config(*given, "seed=1")) == DONE  # it is finished

    def test_each_has_a_wandb_run_of_its_own(self, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("WANDB_MODE", "WANDB_API_KEY"):  # without a key it logs offline
            monkeypatch.delenv(name, raising=False)
        words = ("logger.wandb=true", f"runtime.runs_dir={tmp_path}", "trainer.num_replicas=2")
        config = tiny_config(*MODELS["noise"], data, *words)
        assert train(config) == DONE
        assert [len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) for folder in run_folders(config)] == [1, 1]

    def test_only_what_is_missing_is_trained(self, tmp_path: Path, data: str) -> None:
        given = (*MODELS["noise"], data, f"runtime.runs_dir={tmp_path / 'runs'}")
        train(tiny_config(*given, "seed=1"))
        before = files(run_folder(tiny_config(*given, "seed=1")))
        config = tiny_config(*given, "trainer.num_replicas=3")
        [job] = plan([[*TINY, *given, "trainer.num_replicas=3"]])
        assert job.pending
        assert train(config) == DONE
        assert files(run_folder(tiny_config(*given, "seed=1"))) == before
        assert not job.pending

    def test_cut_off_and_resumed_equals_straight_bit_for_bit(
        self, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = (*MODELS["linear start"], data, "trainer.num_replicas=3")
        straight, cut = (tiny_config(*given, f"runtime.runs_dir={tmp_path / way}") for way in ("straight", "cut"))
        assert train(straight) == DONE
        step = Replicas.train_step
        runs = ReplicaRuns.__init__

        def interrupting(self: ReplicaRuns, given: list) -> None:  # type: ignore[type-arg]
            runs(self, given)

            def third_step(replicas: Replicas) -> dict[Trainer, Exception]:
                if replicas.trainers[0].progress.step == 2:
                    self.interrupt()
                return step(replicas)

            monkeypatch.setattr(Replicas, "train_step", third_step)

        with monkeypatch.context() as patched:
            patched.setattr(ReplicaRuns, "__init__", interrupting)
            assert train(cut) == INTERRUPTED
        monkeypatch.setattr(Replicas, "train_step", step)
        assert [status_of(folder)["step"] for folder in run_folders(cut)] == [3, 3, 3]
        assert train(cut) == DONE
        for one, other in zip(run_folders(straight), run_folders(cut), strict=True):
            assert files(one) == files(other)

    def test_one_that_fails_leaves_the_others(self, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tiny_config(*MODELS["noise"], data, f"runtime.runs_dir={tmp_path}", "trainer.num_replicas=3")
        begin = Trainer.begin

        def poisoned(trainer: Trainer) -> None:
            if trainer.seed == 1:
                trainer.weights[0].data.fill_(float("nan"))
            begin(trainer)

        monkeypatch.setattr(Trainer, "begin", poisoned)
        assert train(config) == NOT_FINITE
        assert [status_of(folder)["status"] for folder in run_folders(config)] == ["done", "failed", "done"]
        assert "is not finite at step 0, seed 1" in status_of(run_folders(config)[1])["error"]
        alone = tiny_config(*MODELS["noise"], data, f"runtime.runs_dir={tmp_path / 'alone'}", "seed=2")
        assert train(alone) == DONE
        newest = (checkpoint.latest(folder / "checkpoints") for folder in (run_folder(alone), run_folders(config)[2]))
        one, other = (checkpoint.load(path, torch.device("cpu")).tensors["model"] for path in newest if path)
        assert_close(one, other, rtol=1e-3, atol=1e-5)


class TestRefusals:
    def test_batches_of_different_shapes(self, tmp_path: Path) -> None:
        with pytest.raises(ReplicaError, match="differ in shape"):
            trained(tmp_path)

    def test_a_model_whose_kernel_takes_one_at_a_time(self, tmp_path: Path) -> None:
        ntm = ("model=ntm", "~model.hidden_size", "~model.num_layers", "task.min_length=3")
        with pytest.raises(ReplicaError, match=r"NTM can't run as several replicas at once .*runtime.jobs=2"):
            trained(tmp_path, *ntm)

    def test_a_model_that_drops_out_at_random(self, tmp_path: Path, data: str) -> None:
        trainers = [tiny_trainer(tmp_path / str(seed), *MODELS["noise"], data, f"seed={seed}") for seed in range(2)]
        for trainer in trainers:
            trainer.model.register_forward_hook(lambda model, given, found: (torch.dropout(found[0], 0.5, True), ()))
        with pytest.raises(ReplicaError, match="random operation"):
            Replicas(trainers).train_step()

    def test_the_runs_say_why(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}", "trainer.num_replicas=2")
        assert train(config) == REFUSED
        assert "a task for trainer.num_replicas gives batches of one shape" in capsys.readouterr().err
        assert status_of(run_folders(config)[1])["status"] == "failed"

    def test_settings_that_do_not_go_together(self) -> None:
        with pytest.raises(ConfigError, match="num_replicas does not go with carry_state, bptt_length or compile"):
            tiny_config("trainer.num_replicas=2", "trainer.bptt_length=2")

    def test_several_processes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tiny_config(f"runtime.runs_dir={tmp_path}", "trainer.num_replicas=2")
        monkeypatch.setattr("memnets.launch.processes", lambda device: nullcontext(replace(ALONE, count=2)))
        assert train(config) == REFUSED
        assert "start it without torchrun" in capsys.readouterr().err


class TestStreams:
    def test_replicas_draw_what_they_would_alone(self) -> None:
        like = torch.zeros(3, 4, 5)
        with replica_streams([7, 8, 9], torch.device("cpu")):
            first, second = vmap(lambda rows: (uniform(rows, 2), uniform(rows, 6)))(like)
        for i, seed in enumerate([7, 8, 9]):
            torch.manual_seed(seed)
            assert torch.equal(first[i], uniform(like[0], 2))
            assert torch.equal(second[i], uniform(like[0], 6))

    def test_without_streams_nothing_is_drawn(self) -> None:
        with pytest.raises(RuntimeError, match="use replica_streams"):
            vmap(lambda rows: uniform(rows, 2))(torch.zeros(3, 4))
