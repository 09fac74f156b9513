"""What goes wrong around training: not finite, damaged, another run's, cut off, services and devices that fail."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import finished
from tiny import ALONE, tiny_trainer

from memnets.training import checkpoint
from memnets.training.checkpoint import CheckpointError
from memnets.training.distributed import choose_device
from memnets.training.logger import Service
from memnets.training.progress import NonFiniteError, Progress
from memnets.training.trainer import Trainer


def poisoned(trainer: Trainer, step: int) -> Trainer:
    """A trainer whose optimizer writes a NaN in the given step (counted from 0)."""
    straight = trainer.optimizer.step

    def breaking() -> None:
        straight()
        if trainer.progress.step == step:
            next(trainer.model.parameters()).data[0] = float("nan")

    trainer.optimizer.step = breaking  # type: ignore[method-assign]
    return trainer


class TestFaults:
    def test_not_finite_names_step_and_seed_and_keeps_the_last_checkpoint(self, tmp_path: Path) -> None:
        trainer = poisoned(tiny_trainer(tmp_path, "trainer.save_every=3", "seed=3"), step=3)
        with pytest.raises(NonFiniteError, match=r"not finite at step 4, seed 3 .*task\.batch\('train', 4, 4, 3\)"):
            trainer.fit()
        newest = checkpoint.latest(tmp_path / "checkpoints")
        assert newest is not None
        assert newest.name == "step_00000003"

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path: Path) -> None:
        trainer = poisoned(tiny_trainer(tmp_path, "trainer.save_every=2", "seed=3"), step=3)
        with pytest.raises(NonFiniteError, match="a weight is not finite after step 4, seed 3"):
            trainer.fit()
        assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == ["step_00000002"]

    @pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
    def test_damage_is_named(self, tmp_path: Path, name: str) -> None:
        finished(tmp_path)
        path = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            tiny_trainer(tmp_path).load(path)
        (path / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            tiny_trainer(tmp_path).load(path)

    def test_what_was_cut_off_while_writing_is_no_checkpoint(self, tmp_path: Path) -> None:
        finished(tmp_path)
        folder = tmp_path / "checkpoints"
        whole = checkpoint.latest(folder)
        (folder / ".partial_00000099").mkdir()
        (folder / ".partial_00000099" / "model.safetensors").write_bytes(b"half")
        assert checkpoint.latest(folder) == whole

    def test_another_models_checkpoint_is_refused(self, tmp_path: Path) -> None:
        finished(tmp_path / "small")
        other = tiny_trainer(tmp_path / "large", "model.hidden_size=9")
        with pytest.raises(CheckpointError, match="does not fit this model"):
            other.load(checkpoint.checkpoints(tmp_path / "small" / "checkpoints")[-1])

    def test_another_optimizers_state_is_refused(self, tmp_path: Path) -> None:
        finished(tmp_path / "adam")
        path = checkpoint.checkpoints(tmp_path / "adam" / "checkpoints")[-1]
        for other in ("rmsprop", "sgd"):
            with pytest.raises(CheckpointError, match="another optimizer's state"):
                tiny_trainer(tmp_path / other, f"optim={other}").load(path)

    def test_another_number_of_processes_is_refused(self, tmp_path: Path) -> None:
        finished(tmp_path)
        path = checkpoint.checkpoints(tmp_path / "checkpoints")[-1]
        trainer = tiny_trainer(tmp_path)
        trainer.group = replace(ALONE, count=2)
        with pytest.raises(CheckpointError, match="written by 1 processes"):
            trainer.load(path)

    def test_a_cut_while_a_checkpoint_is_replaced_leaves_one_to_resume(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = finished(tmp_path, "trainer.save_every=3")
        trainer._saved_step = None

        def killed(path: Path, ignore_errors: bool = False) -> None:
            if path.exists():
                next(path.glob("*.safetensors"), path / "state.json").unlink()
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint.shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                trainer.save()
        newest = checkpoint.latest(tmp_path / "checkpoints")
        assert newest is not None
        checkpoint.verify(newest)

    def test_a_start_from_another_run_takes_its_weights_and_none_of_its_judgements(self, tmp_path: Path) -> None:
        stopping = "trainer.early_stopping={_target_: memnets.training.settings.EarlyStopping}"
        finished(tmp_path / "first", stopping, "trainer.eval_every=1")
        path = checkpoint.checkpoints(tmp_path / "first" / "checkpoints")[-1]
        trainer = tiny_trainer(tmp_path / "second", "optim.weight_decay=7.0", stopping)
        trainer.logger.metrics({"split": "train", "step": 1})  # from an attempt that died before its first checkpoint
        trainer.load(path, continues=False)
        assert trainer.progress == Progress(step=6)
        assert trainer.optimizer.param_groups[0]["weight_decay"] == 7.0
        assert trainer.logger.position == 0
        saved = checkpoint.load(path, ALONE.device).tensors["model"]
        assert all(torch.equal(weight, saved[name]) for name, weight in trainer.model.named_parameters())

    def test_a_failing_service_is_one_warning(self) -> None:
        class Failing:
            def log(self, row: dict) -> None:
                raise ConnectionError("no network")

            def close(self) -> None:
                raise ConnectionError("no network")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            service = Service("wandb", Failing)
            service.log({})
            service.log({})
            service.close()
        assert [str(warning.message) for warning in caught] == [
            "wandb failed and is left out of this run: ConnectionError: no network"
        ]

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match=r"runtime\.device=cuda:99"):
            choose_device("cuda:99")
        with pytest.raises(ValueError, match=r"runtime\.device=gpu"):
            choose_device("gpu")


class TestServices:
    def test_tensorboard_writes_events(self, tmp_path: Path) -> None:
        finished(tmp_path, "logger.tensorboard=true").logger.close()
        assert list((tmp_path / "tensorboard").glob("events.*"))

    @pytest.mark.parametrize("key", [None, "k" * 40], ids=["no key", "no network"])
    def test_wandb_without_key_or_network_logs_offline(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
    ) -> None:
        import wandb

        straight = wandb.init

        def init(**given: Any) -> Any:
            if given["mode"] == "online":
                raise ConnectionError("no network")
            return straight(**given)

        monkeypatch.setattr(wandb, "init", init)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        if key is not None:
            monkeypatch.setenv("WANDB_API_KEY", key)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer = finished(tmp_path, "logger.wandb=true")
            trainer.logger.close()
        told = [str(warning.message) for warning in caught if "wandb" in str(warning.message)]
        assert told == ([] if key is None else ["wandb can't be reached and logs offline: no network"])
        assert trainer.progress.outcome == "max_steps"
        assert list(tmp_path.glob("wandb/offline-run-*"))
