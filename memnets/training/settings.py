"""The closed nodes of a configuration: `trainer`, `logger`, `runtime`. Their fields are all the keys there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from memnets.training.schedule import Constant, Schedule


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when a validation metric no longer improves; the best weights are the ones that are tested.

    Attributes:
        metric: a metric of the task, or `loss`.
        mode: whether less or more is better.
        patience: evaluations without improvement before stopping.
    """

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int = 10

    def __post_init__(self) -> None:
        _at_least(1, patience=self.patience)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` beats the best so far; nothing is beaten by NaN."""
        return value == value and (best is None or (value < best if self.mode == "min" else value > best))


@dataclass(frozen=True, kw_only=True)
class NextPhase(EarlyStopping):
    """When a model that has phases of training goes on to its next one: no further than its last.

    Attributes:
        patience: evaluations without improvement before going on.
        steps: go on after this many steps of a phase, whatever the metric; null leaves it to the metric.
        rate: constant factor on the learning rate until the last phase, at whose start the schedule begins.
    """

    patience: int = 1
    steps: int | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            _at_least(1, steps=self.steps)
        if not self.rate > 0:
            raise ValueError(f"NextPhase.rate must be positive, not {self.rate}")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long and how to train.

    Attributes:
        max_steps: optimizer steps.
        batch_size: sequences per batch, process and micro-step.
        eval_batch_size: sequences per evaluation batch.
        accumulate: micro-steps whose gradients make one step; as good as that many times the batch, or processes.
        log_every: steps per row of training metrics; a row is the mean over these steps.
        eval_every: steps between evaluations on the validation split.
        save_every: steps between checkpoints; one is always written at the end.
        keep_checkpoints: how many of the newest to keep.
        num_replicas: train this many copies as one, with `seed`, `seed` + 1 and so on. Each is the run that its seed
            would be alone, in the folder of that run.
        clip_value: clip every gradient component to plus or minus this (before the norms).
        clip_norm_each: clip the Euclidean norm of each parameter's gradient to this (before `clip_norm`).
        clip_spectral_each: clip the spectral norm of each parameter's gradient to this: the largest singular value of a
            matrix (of the first axis by the others), the Euclidean norm of a vector (before `clip_norm`).
        clip_norm: clip the gradient's Euclidean norm to this.
        precision: `bfloat16` runs the model under autocast; weights stay float32.
        ema_decay: evaluate with an exponential moving average of the weights with this decay.
        schedule: factor on the learning rate by step.
        early_stopping: stop when validation no longer improves (in the last phase, if the model has phases).
        next_phase: when a model that has phases of training goes on to its next one.
        stop_after_solved: stop this many steps after the task's own criterion first held for the mean over `log_every`
            steps; null trains to `max_steps`.
        bptt_length: truncate back-propagation through time to pieces of this many steps.
        carry_state: keep the state from batch to batch, detached, for tasks whose batches continue one another.
        compile: torch.compile what pays: a model names the part itself.
        initial_weights: a run folder or checkpoint whose weights are those of the first step, or the name of runs in
            `runtime.runs_dir`: then of the finished one with the same seed. Optimizer, step and all else begin anew
            (`runtime.resume` goes on from another run's instead).
        initial_part: of these the part whose names begin so, such as `encoder`; the rest is drawn. Empty: all.
    """

    max_steps: int = 10_000
    batch_size: int = 16
    eval_batch_size: int = 64
    accumulate: int = 1
    log_every: int = 100
    eval_every: int = 1000
    save_every: int = 1000
    keep_checkpoints: int = 2
    num_replicas: int = 1
    clip_value: float | None = None
    clip_norm_each: float | None = None
    clip_spectral_each: float | None = None
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float | None = None
    schedule: Schedule = field(default_factory=Constant)
    early_stopping: EarlyStopping | None = None
    next_phase: NextPhase = field(default_factory=NextPhase)
    stop_after_solved: int | None = None
    bptt_length: int | None = None
    carry_state: bool = False
    compile: bool = False
    initial_weights: str | None = None
    initial_part: str = ""

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "eval_batch_size", "accumulate", "log_every", "eval_every", "save_every")
        counted = {name: getattr(self, name) for name in counts}
        _at_least(1, keep_checkpoints=self.keep_checkpoints, num_replicas=self.num_replicas, **counted)
        if self.stop_after_solved is not None:
            _at_least(0, stop_after_solved=self.stop_after_solved)
        if self.bptt_length is not None:
            _at_least(1, bptt_length=self.bptt_length)
        for name in ("clip_value", "clip_norm_each", "clip_spectral_each", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive (null to leave out), not {value}")
        if self.num_replicas > 1 and (self.carry_state or self.compile or self.bptt_length is not None):
            raise ValueError("num_replicas does not go with carry_state, bptt_length or compile: leave one of them out")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1 (null to leave out), not {self.ema_decay}")

    def factor(self, step: int, phases_left: int) -> float:
        """Return the factor on the learning rate at a step of a phase: the schedule's in the last one."""
        return self.next_phase.rate if phases_left else self.schedule(step)

    def criterion(self, phases_left: int) -> EarlyStopping | None:
        """Return what judges validations in a phase; None if nothing: steps end it."""
        if phases_left:
            return self.next_phase if self.next_phase.steps is None else None
        return self.early_stopping


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """Where metrics go besides `metrics.jsonl`, which is always written. Nothing here changes a result.

    Attributes:
        wandb: also log to Weights & Biases; offline where there is no key; a failure is one warning.
        wandb_project: its project.
        tensorboard: also write TensorBoard events.
        progress: `auto` draws a bar on a terminal and plain lines elsewhere.
    """

    wandb: bool = False
    wandb_project: str = "memnets"
    tensorboard: bool = False
    progress: Literal["auto", "bar", "lines", "none"] = "auto"


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Where and how to run. `deterministic`, `parallel` and `backend` belong to a run's identity; the rest doesn't.

    Attributes:
        device: `auto` takes a GPU if there is one.
        threads: CPU threads per process; null leaves PyTorch's choice.
        deterministic: refuse operations that are not reproducible.
        parallel: how several processes (`torchrun`) share the work; one process ignores it.
        backend: what computes the ops: `auto` takes the fastest kernel that serves, `reference` plain PyTorch; `cpu`
            and `triton` refuse what they can't serve.
        runs_dir: where run folders are made.
        resume: `auto` continues an unfinished run in its folder, `never` starts it anew (the old folder is kept under
            another name); a path starts from that checkpoint.
        jobs: runs of a sweep side by side; threads are divided among them.
        pictures: at the end draw the learning curve, the heads' weights, and a page to step through a sequence.
    """

    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    backend: Literal["auto", "reference", "cpu", "triton"] = "auto"
    runs_dir: str = "runs"
    resume: str = "auto"
    jobs: int = 1
    pictures: bool = True

    def __post_init__(self) -> None:
        _at_least(1, jobs=self.jobs, threads=1 if self.threads is None else self.threads)


HOUSEKEEPING = ("device", "threads", "runs_dir", "resume", "jobs", "pictures")
"""Fields of `runtime` that don't belong to a run's identity."""


def _at_least(minimum: int, **values: Any) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")
