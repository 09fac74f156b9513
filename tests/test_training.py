"""The trainer: same seed, same bits; resumed, same bits; faults named; every setting does what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ALONE, tiny_config, tiny_trainer

from memnets.config import build
from memnets.contracts import detach
from memnets.tasks.base import Criterion
from memnets.training import checkpoint
from memnets.training.carry import first_state
from memnets.training.clipping import clip_gradients
from memnets.training.ema import MovingAverage
from memnets.training.evaluation import EVALUATION_SEED, evaluate
from memnets.training.seeds import step_seed
from memnets.training.settings import EarlyStopping, TrainerSettings
from memnets.training.trainer import Trainer

STREAM = (
    "model=memory_transformer",
    "task=segmented_recall",
    "~model.hidden_size",
    "~task.max_length",
    "~task.eval_sequences",
    "~task.test_lengths",
    "model.num_layers=2",
    "model.d_model=8",
    "task.stream=true",
    "trainer.carry_state=true",
    "trainer.eval_batch_size=8",
    "task.eval_sequences=8",
)
SPARSE_STREAM = (
    "model=sam",
    "~model.hidden_size",
    "~model.num_layers",
    "model.memory_size=40",
    "model.num_heads=2",
    "model.top_k=2",
    *(override for override in STREAM if not override.startswith(("model", "~model"))),
)
RESUMED = {
    "plain": (),
    "rmsprop": ("optim=rmsprop",),
    "momentum": ("optim=sgd", "optim.momentum=0.9"),
    "sgd": ("optim=sgd",),
    "average": ("trainer.ema_decay=0.9",),
    "accumulate": ("trainer.accumulate=2", "trainer.clip_norm=0.1", "trainer.clip_value=0.01"),
    "bfloat16": ("trainer.precision=bfloat16",),
    "truncated": ("trainer.bptt_length=2",),
    "schedule": ("trainer.schedule={_target_: memnets.training.schedule.Cosine, total_steps: 6}",),
    "early_stopping": (
        "trainer.early_stopping={_target_: memnets.training.settings.EarlyStopping, patience: 4}",
        "trainer.eval_every=1",
    ),
    "random memory": (
        "model=ntm",
        "~model.hidden_size",
        "~model.num_layers",
        "model.memory_size=5",
        "model.initial_memory._target_=memnets.memory.initial_memory.RandomMemory",
    ),
    "carried state": STREAM,
    "carried state, detached": (*STREAM, "trainer.bptt_length=5"),
    "carried state that grows": (*SPARSE_STREAM, "trainer.bptt_length=5"),
}


def files(folder: Path) -> dict[str, bytes]:
    """Everything a run leaves that must be equal bit for bit; not clocks, nor what depends on them."""
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    state = json.loads((newest / "state.json").read_text())
    state["progress"].pop("seconds")
    tensors = {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
    return {"metrics": (folder / "metrics.jsonl").read_bytes(), "state": json.dumps(state).encode(), **tensors}


def finished(folder: Path, *overrides: str) -> Trainer:
    """A trainer that has run to its end."""
    trainer = tiny_trainer(folder, *overrides)
    trainer.fit()
    return trainer


def interrupted(folder: Path, step: int, *overrides: str) -> Trainer:
    """A trainer that was asked to stop during a step and has saved."""
    trainer = tiny_trainer(folder, *overrides)
    straight = trainer.train_step

    def with_signal() -> None:
        if trainer.progress.step == step - 1:
            trainer.interrupt()
        straight()

    trainer.train_step = with_signal  # type: ignore[method-assign]
    assert trainer.fit() == "interrupted"
    return trainer


class TestReproducibility:
    def test_same_seed_is_the_same_run_bit_for_bit(self, tmp_path: Path) -> None:
        finished(tmp_path / "one")
        finished(tmp_path / "two")
        assert files(tmp_path / "one") == files(tmp_path / "two")

    def test_another_seed_is_another_run(self, tmp_path: Path) -> None:
        finished(tmp_path / "one")
        finished(tmp_path / "two", "seed=1")
        assert files(tmp_path / "one")["model.safetensors"] != files(tmp_path / "two")["model.safetensors"]

    @pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED.keys())
    def test_resumed_equals_straight_bit_for_bit(self, tmp_path: Path, overrides: tuple[str, ...]) -> None:
        finished(tmp_path / "straight", *overrides)
        interrupted(tmp_path / "cut", 3, *overrides)
        resumed = tiny_trainer(tmp_path / "cut", *overrides)
        newest = checkpoint.latest(tmp_path / "cut" / "checkpoints")
        assert newest is not None
        resumed.load(newest)
        assert resumed.progress.step == 3
        resumed.fit()
        straight = files(tmp_path / "straight")
        assert files(tmp_path / "cut") == straight
        assert ("carried.rank0.safetensors" in straight) == ("trainer.carry_state=true" in overrides)

    def test_rows_after_the_checkpoint_are_dropped_on_resume(self, tmp_path: Path) -> None:
        finished(tmp_path / "straight", "trainer.save_every=3")
        cut = tiny_trainer(tmp_path / "cut", "trainer.save_every=3")
        for _ in range(5):  # killed at step 5, two steps after its only checkpoint
            cut.train_step()
        resumed = tiny_trainer(tmp_path / "cut", "trainer.save_every=3")
        resumed.load(tmp_path / "cut" / "checkpoints" / "step_00000003")
        resumed.fit()
        assert files(tmp_path / "cut") == files(tmp_path / "straight")

    def test_carried_state_changes_what_is_learned(self, tmp_path: Path) -> None:
        finished(tmp_path / "carried", *STREAM)
        finished(tmp_path / "dropped", *STREAM, "trainer.carry_state=false")
        assert files(tmp_path / "carried")["metrics"] != files(tmp_path / "dropped")["metrics"]

    def test_step_seeds_differ_by_seed_step_and_rank(self) -> None:
        seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
        assert len(seeds) == 27


class TestSettings:
    def test_accumulating_equals_a_larger_batch_of_the_same_sequences(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, "trainer.accumulate=3", "task.min_length=3")
        before = [weight.detach().clone() for weight in trainer.model.parameters()]
        trainer.train_step()
        accumulated = [weight.grad for weight in trainer.model.parameters()]
        for weight, value in zip(trainer.model.parameters(), before, strict=True):
            weight.data.copy_(value)
        batches = [trainer.task.batch("train", index, 4, 0) for index in range(3)]
        inputs, targets, mask = (torch.cat([getattr(b, k) for b in batches]) for k in ("inputs", "targets", "mask"))
        whole = type(batches[0])(inputs, targets, mask)
        trainer.model.zero_grad()
        (trainer.task.loss(trainer.model(inputs)[0], whole) / mask.sum()).backward()
        for weight, gradient in zip(trainer.model.parameters(), accumulated, strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-7)

    def test_truncation_cuts_the_gradient_and_nothing_else(self, tmp_path: Path) -> None:
        """Windows as long as the sequence change nothing; shorter ones change the gradient, not the outputs."""
        gradients = []
        for length in ("null", "7", "2"):
            trainer = tiny_trainer(tmp_path / length, f"trainer.bptt_length={length}", "task.min_length=3")
            trainer.train_step()
            gradients.append((trainer.progress.sums, [weight.grad for weight in trainer.model.parameters()]))
        (sums, whole), (_, same), (cut_sums, cut) = gradients
        assert all(torch.equal(a, b) for a, b in zip(whole, same, strict=True))
        assert sums["loss"] == pytest.approx(cut_sums["loss"], rel=1e-6)
        assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(whole, cut, strict=True))

    def test_clipping_bounds_components_and_norm(self, tmp_path: Path) -> None:
        by_value = tiny_trainer(tmp_path / "value", "trainer.clip_value=1e-4", "trainer.clip_norm=null")
        by_value.train_step()
        assert max(weight.grad.abs().max() for weight in by_value.model.parameters()) <= 1e-4
        by_norm = tiny_trainer(tmp_path / "norm", "trainer.clip_norm=1e-3")
        by_norm.train_step()
        norm = torch.stack([weight.grad.norm() for weight in by_norm.model.parameters()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-3)

    @pytest.mark.parametrize("limit", [0.5, 100.0])
    def test_clipping_bounds_the_largest_singular_value_of_each_parameter(self, limit: float) -> None:
        weights = [torch.nn.Parameter(torch.zeros(size)) for size in ((3, 4), (5,), (2, 2, 3), (2, 1))]
        for weight in weights:
            weight.grad = torch.randn(weight.shape)
        before = [weight.grad.clone() for weight in weights if weight.grad is not None]
        norm = clip_gradients(weights, TrainerSettings(clip_spectral_each=limit))
        for weight, given in zip(weights, before, strict=True):
            largest = np.linalg.svd(given.reshape(len(given), -1).numpy(), compute_uv=False)[0]
            torch.testing.assert_close(weight.grad, given * min(1.0, limit / float(largest)))
        total = sum(float(weight.grad.square().sum()) for weight in weights if weight.grad is not None)
        assert norm == pytest.approx(total**0.5, rel=1e-5)

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_clipping_a_largest_singular_value_leaves_what_is_zero_or_not_finite(self, value: float) -> None:
        weight = torch.nn.Parameter(torch.zeros(2, 3))
        weight.grad = torch.full((2, 3), value)
        assert clip_gradients([weight], TrainerSettings(clip_spectral_each=1.0)) == pytest.approx(
            6**0.5 * value, nan_ok=True
        )

    def test_moving_average_is_the_recurrence(self) -> None:
        model = torch.nn.Linear(3, 2)
        average = MovingAverage(model, 0.75)
        expected = model.weight.detach().clone()
        for step in range(4):
            with torch.no_grad():
                model.weight.add_(step + 1.0)
            average.update()
            expected = 0.75 * expected + 0.25 * model.weight.detach()
        torch.testing.assert_close(average.named()["weight"], expected)
        current = model.weight.detach().clone()
        with average.swapped():
            torch.testing.assert_close(model.weight.detach(), expected)
        assert torch.equal(model.weight, current)

    def test_evaluation_uses_the_average(self, tmp_path: Path) -> None:
        plain = finished(tmp_path / "plain").evaluate
        averaged = finished(tmp_path / "averaged", "trainer.ema_decay=0.999").evaluate
        task = build(tiny_config()).task
        assert plain(task, "test") != averaged(task, "test")

    def test_early_stopping_stops_and_tests_the_best_weights(self, tmp_path: Path) -> None:
        stopping = "{_target_: memnets.training.settings.EarlyStopping, metric: loss, patience: 2}"
        overrides = (f"trainer.early_stopping={stopping}", "trainer.eval_every=1", "optim.lr=0.3")
        trainer = finished(tmp_path, *overrides, "trainer.max_steps=300", "trainer.clip_norm=null")
        assert trainer.progress.outcome == "early_stopping"
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        validation = [row["loss"] for row in rows if row["split"] == "validation"]
        assert min(validation) == trainer.progress.best_value
        assert validation.index(min(validation)) == len(validation) - 3
        assert trainer.evaluate(trainer.task, "validation")["loss"] == min(validation)

    def test_early_stopping_is_not_fooled_by_nan(self) -> None:
        stopping = EarlyStopping()
        assert stopping.improves(1.0, None)
        assert not stopping.improves(float("nan"), None)
        assert not stopping.improves(1.0, 1.0)
        assert EarlyStopping(mode="max").improves(2.0, 1.0)

    @pytest.mark.parametrize(("further", "steps"), [(0, 2), (1, 3), (3, 5)])
    def test_stops_so_many_steps_after_being_solved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, further: int, steps: int
    ) -> None:
        trainer = tiny_trainer(tmp_path, f"trainer.stop_after_solved={further}")
        monkeypatch.setattr(type(trainer.task), "solved", Criterion("bit_errors", 1e9, "min"))
        assert trainer.fit() == "solved"
        assert (trainer.progress.solved_at_step, trainer.progress.step) == (2, steps)

    def test_old_checkpoints_go_and_the_newest_stay(self, tmp_path: Path) -> None:
        finished(tmp_path, "trainer.save_every=1", "trainer.keep_checkpoints=2")
        names = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
        assert names == ["step_00000005", "step_00000006"]

    @pytest.mark.parametrize("batch_size", [5, 12, 64])
    def test_metrics_are_over_all_sequences_of_a_split(self, batch_size: int) -> None:
        """Segmented recall's batches differ in what they count at: a mean of means would be another number."""
        experiment = build(tiny_config(*STREAM, "task.eval_sequences=12"))
        task, model = experiment.task, experiment.model
        found = evaluate(model, task, "test", batch_size, ALONE)
        total = count = 0.0
        for index in range(task.num_batches("test", batch_size)):
            batch = task.batch("test", index, batch_size, EVALUATION_SEED)
            with torch.no_grad():
                total += task.loss(model.eval()(batch.inputs)[0], batch).item()
            count += batch.mask.sum().item()
        assert task.num_batches("test", batch_size) == -(-12 // batch_size)
        assert found["loss"] == pytest.approx(total / count, rel=1e-6)

    def test_truncated_gradient_is_the_sum_over_windows(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, "trainer.bptt_length=3", "task.min_length=3", "trainer.clip_norm=null")
        before = [weight.detach().clone() for weight in trainer.model.parameters()]
        trainer.train_step()
        found = [weight.grad for weight in trainer.model.parameters()]
        for weight, value in zip(trainer.model.parameters(), before, strict=True):
            weight.data.copy_(value)
        trainer.model.zero_grad()
        batch, state = trainer.task.batch("train", 0, 4, 0), None
        for window in batch.windows(3):
            outputs, state = trainer.model(window.inputs, detach(state))
            (trainer.task.loss(outputs, window) / batch.mask.sum()).backward()
        for weight, gradient in zip(trainer.model.parameters(), found, strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-5, atol=1e-8)

    def test_rows_that_begin_get_a_fresh_state(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, "trainer.carry_state=true")
        batch = trainer.task.batch("train", 0, 4, 0)
        starts = torch.tensor([True, False, False, True])
        carried = trainer.model(batch.inputs)[1]
        state = first_state(trainer.model, carried, replace(batch, starts=starts))
        assert torch.equal(state.hidden[starts], torch.zeros_like(state.hidden[starts]))
        assert torch.equal(state.hidden[~starts], carried.hidden[~starts])
        assert first_state(trainer.model, carried, replace(batch, starts=torch.zeros(4, dtype=torch.bool))) is carried
        assert first_state(trainer.model, carried, replace(batch, starts=torch.ones(4, dtype=torch.bool))) is None
        assert first_state(trainer.model, carried, replace(batch, starts=None)) is None
