"""Phases of training, on the one model that has any: a Memory Network that starts linear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from babi_example import write_babi
from test_training import files, finished, interrupted
from tiers import but_for_long
from tiny import tiny_config, tiny_trainer

from memnets.check import ConfigError
from memnets.config import build
from memnets.contracts import Spec
from memnets.models.lstm import LSTM
from memnets.training import checkpoint
from memnets.training.schedule import Halving
from memnets.training.settings import EarlyStopping, NextPhase, TrainerSettings

STEPS = 8
NEXT = "{_target_: memnets.training.settings.NextPhase, rate: 0.5}"
FIXED = "trainer.next_phase={_target_: memnets.training.settings.NextPhase, rate: 0.5, steps: 3}"
STORIES = (
    "~model.hidden_size",
    "~model.num_layers",
    "task=babi",
    "~task.max_length",
    "~task.eval_sequences",
    "~task.test_lengths",
    "task.verify_checksum=false",
    "trainer.batch_size=2",
    "trainer.log_every=1",
)
LINEAR = (
    "model=memn2n",
    *STORIES,
    "model.linear_start=true",
    "model.random_noise=0.5",
    "optim.lr=0.3",
    f"trainer.max_steps={STEPS}",
    "trainer.eval_every=1",
    f"trainer.next_phase={NEXT}",
    "trainer.schedule={_target_: memnets.training.schedule.Halving, every_steps: 1}",
)


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides of a tiny run whose first phase ends after a few steps."""
    monkeypatch.delenv("MEMNETS_DATA", raising=False)
    return (*LINEAR, f"task.data_root={write_babi(tmp_path, 1)}")


def rows(folder: Path, split: str) -> list[dict[str, float]]:
    """A run's metrics on a split."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["split"] == split]


class TestPhases:
    def test_the_softmax_comes_when_validation_no_longer_improves(
        self, tmp_path: Path, linear: tuple[str, ...]
    ) -> None:
        trainer = finished(tmp_path / "run", *linear)
        began = trainer.progress.phase_began
        losses = [row["loss"] for row in rows(tmp_path / "run", "validation")][:began]
        assert 1 < began < STEPS
        assert losses[:-1] == sorted(losses[:-1], reverse=True)
        assert losses[-1] >= losses[-2]
        assert trainer.model.phases_left == 0
        assert trainer.progress.best_step is None

    def test_schedules_count_from_the_start_of_the_last_phase(self, tmp_path: Path, linear: tuple[str, ...]) -> None:
        began = finished(tmp_path / "run", *linear).progress.phase_began
        rates = [row["learning_rate"] for row in rows(tmp_path / "run", "train")]
        assert rates == pytest.approx([0.15] * began + [0.3 * 0.5**k for k in range(STEPS - began)])

    def test_it_comes_after_steps_whatever_the_metric(self, tmp_path: Path, linear: tuple[str, ...]) -> None:
        fixed = (*linear, FIXED)
        for every in (1, 2, STEPS):
            trainer = finished(tmp_path / str(every), *fixed, f"trainer.eval_every={every}")
            assert trainer.progress.phase_began == 3
            assert trainer.model.phases_left == 0
            assert trainer.progress.best_step is None
            rates = [row["learning_rate"] for row in rows(tmp_path / str(every), "train")]
            assert rates == pytest.approx([0.15] * 3 + [0.3 * 0.5**k for k in range(STEPS - 3)])

    @pytest.mark.parametrize("step", but_for_long(range(1, STEPS), lambda step: step in (2, 5)))
    @pytest.mark.parametrize("ends", [(), (FIXED,)], ids=["by the metric", "by steps"])
    def test_resumed_in_any_phase_equals_straight_bit_for_bit(
        self, tmp_path: Path, linear: tuple[str, ...], step: int, ends: tuple[str, ...]
    ) -> None:
        linear = (*linear, *ends)
        finished(tmp_path / "straight", *linear)
        interrupted(tmp_path / "cut", step, *linear)
        resumed = tiny_trainer(tmp_path / "cut", *linear)
        newest = checkpoint.latest(tmp_path / "cut" / "checkpoints")
        assert newest is not None
        resumed.load(newest)
        resumed.fit()
        assert files(tmp_path / "cut") == files(tmp_path / "straight")

    def test_early_stopping_judges_the_last_phase_alone(self, tmp_path: Path, linear: tuple[str, ...]) -> None:
        stopping = "{_target_: memnets.training.settings.EarlyStopping, patience: 1}"
        trainer = finished(tmp_path / "run", *linear, f"trainer.early_stopping={stopping}", "trainer.max_steps=99")
        assert trainer.progress.outcome == "early_stopping"
        best = trainer.progress.best_step
        assert best is not None
        assert trainer.progress.phase_began < best < trainer.progress.step
        assert trainer.model.phases_left == 0

    def test_a_start_from_another_run_takes_its_phase(self, tmp_path: Path, linear: tuple[str, ...]) -> None:
        began = finished(tmp_path / "first", *linear).progress.phase_began
        newest = checkpoint.latest(tmp_path / "first" / "checkpoints")
        assert newest is not None
        (tmp_path / "second").mkdir()
        second = tiny_trainer(tmp_path / "second", *linear)
        second.load(newest, continues=False)
        assert (second.model.phases_left, second.progress.phase_began) == (0, began)


class TestContract:
    def test_a_model_has_one_phase_unless_it_says_so(self) -> None:
        model = LSTM(Spec("vectors", 2, 2), hidden_size=2, num_layers=1)
        assert model.phases_left == 0
        with pytest.raises(RuntimeError, match="LSTM has no phase of training left"):
            model.enter_next_phase()

    def test_factor(self) -> None:
        settings = TrainerSettings(schedule=Halving(2), next_phase=NextPhase(rate=0.1))
        assert [settings.factor(5, phases_left=1), settings.factor(5, phases_left=0)] == [0.1, 0.25]

    def test_a_criterion_is_no_less_than_early_stoppings(self) -> None:
        assert isinstance(NextPhase(), EarlyStopping)
        with pytest.raises(ValueError, match="rate must be positive"):
            NextPhase(rate=0.0)
        with pytest.raises(ValueError, match="patience must be at least 1"):
            NextPhase(patience=0)
        with pytest.raises(ValueError, match="steps must be at least 1"):
            NextPhase(steps=0)

    def test_what_judges_a_phase(self) -> None:
        judged, last = NextPhase(), EarlyStopping()
        settings = TrainerSettings(next_phase=judged, early_stopping=last)
        assert [settings.criterion(left) for left in (1, 0)] == [judged, last]
        counted = TrainerSettings(next_phase=NextPhase(steps=3), early_stopping=last)
        assert [counted.criterion(left) for left in (1, 0)] == [None, last]

    def test_a_model_without_phases_refuses_their_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"trainer\.next_phase: LSTM as configured has no phases"):
            build(tiny_config(f"trainer.next_phase={NEXT}"))

    def test_a_metric_that_is_none(self, linear: tuple[str, ...]) -> None:
        config = tiny_config(*linear, "trainer.next_phase.metric=eror")
        with pytest.raises(ConfigError, match=r"next_phase\.metric: Babi has no such metric; did you mean error"):
            build(config)

    def test_the_phase_is_part_of_the_weights(self, linear: tuple[str, ...]) -> None:
        one, two = (build(tiny_config(*linear)).model for _ in range(2))
        one.enter_next_phase()
        two.load_state_dict(one.state_dict())
        assert two.phases_left == 0
        assert torch.equal(two.state_dict()["linear"], torch.tensor(False))
