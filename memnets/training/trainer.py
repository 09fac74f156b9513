"""The one training loop. It knows tasks and models by their contracts alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memnets.contracts import Batch, Split, detach, from_named, named_tensors
from memnets.models.base import SequenceModel
from memnets.tasks.base import Task
from memnets.training import checkpoint
from memnets.training.carry import first_state
from memnets.training.clipping import clip_gradients
from memnets.training.distributed import Processes, average_gradients, distribute, plain, without_sync
from memnets.training.ema import MovingAverage
from memnets.training.evaluation import answers, evaluate, measures, quotient, with_derived
from memnets.training.logger import RunLogger
from memnets.training.pace import Pace
from memnets.training.progress import NonFiniteError, Outcome, Progress
from memnets.training.rates import optimizer_of
from memnets.training.reporter import Reporter
from memnets.training.seeds import RANK_SEEDS, seed_generator, step_seed
from memnets.training.settings import TrainerSettings
from memnets.training.snapshot import gather, restore


class Trainer:
    """Trains one model on one task, in a folder, from a checkpoint if told so.

    Batches, dropout and learning rate are pure functions of the step, so a resumed run repeats the straight one bit for
    bit. Call `fit`; call `interrupt` from a signal handler to save and stop after the current step.
    """

    def __init__(
        self,
        task: Task,
        model: SequenceModel,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        settings: TrainerSettings,
        seed: int,
        folder: Path,
        logger: RunLogger,
        group: Processes,
        parallel: Literal["ddp", "fsdp"] = "ddp",
    ) -> None:
        self.task, self.settings, self.seed, self.group, self.logger = task, settings, seed, group, logger
        self.folder = folder / "checkpoints"
        self.progress = Progress()
        self.reporter: Reporter | None = None
        model = model.to(group.device)
        if settings.compile:
            model.compiled_part().compile()
        self.model = distribute(model, group, parallel, settings.carry_state or settings.bptt_length is not None)
        self.weights = list(self.model.parameters())
        self.optimizer, self.base_rates = optimizer_of(self.model, make_optimizer)
        self.average = MovingAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        self.carried: Any = None
        self._interrupted, self._stopping = False, False
        self._sums: dict[str, Tensor] = {}
        self._pace = Pace()
        self._saved_step: int | None = None

    def interrupt(self) -> None:
        """Ask for a checkpoint and a stop after the current step."""
        self._interrupted = True

    def fit(self) -> Outcome:
        """Train to the end, or to an interruption; test; return why it ended.

        Raises:
            NonFiniteError: with the batch's step and seed. The last checkpoint stays as it was.
        """
        self.begin()
        while self.goes_on:
            self.train_step()
        return self.finish()

    def begin(self) -> None:
        """Start the clock."""
        self._pace = Pace(self.progress.seconds, self.sequences)
        self.progress.end_after(self.settings.max_steps)

    @property
    def goes_on(self) -> bool:
        """Whether another step is to be taken."""
        return self.progress.outcome is None and not self._stopping

    def finish(self) -> Outcome:
        """Save, and test what has come to its end; return why it ended."""
        self.save()
        if self.progress.outcome is None:
            return "interrupted"
        self.test()
        return self.progress.outcome

    @property
    def sequences(self) -> int:
        """Training sequences seen, over all processes."""
        settings = self.settings
        return self.progress.step * settings.batch_size * settings.accumulate * self.group.count

    def train_step(self) -> None:
        """Take one optimizer step; log, evaluate, judge and save where these are due."""
        batches, count = self.begin_step()
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            for judged, outputs in self._backward(batch, count, last=number == len(batches) - 1):
                self.note(judged, outputs)
        self.end_step()

    def begin_step(self) -> tuple[list[Batch], Tensor]:
        """Set seed and rate; return the step's batches, and the places, over all processes, that its loss counts at."""
        step = self.progress.step
        seed_generator(step_seed(self.seed, step, self.group.rank), self.group.device)
        factor = self.settings.factor(step - self.progress.phase_began, plain(self.model).phases_left)
        for parameters, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            parameters["lr"] = rate * factor
        batches = [self._batch(step * self.settings.accumulate + micro) for micro in range(self.settings.accumulate)]
        count = self.group.sum(torch.stack([batch.mask.sum() for batch in batches]).sum().double())
        self._sums = {}
        return batches, count

    @torch.no_grad()
    def note(self, batch: Batch, outputs: Tensor) -> None:
        """Add the metrics of a batch to the step's."""
        for name, ratio in measures(self.task, outputs, batch).items():
            self._sums[name] = self._sums.get(name, 0) + torch.stack(ratio).double()

    def end_step(self) -> None:
        """Update the weights by the gradients there are; log, evaluate, judge and save where these are due.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite.
        """
        average_gradients(self.model, self.group)
        norm = clip_gradients(self.weights, self.settings)
        self._stopping = self._add_up(self._sums, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.progress.step += 1
        self.progress.seconds = self._pace.seconds
        self._after_step()
        self.progress.end_after(self.settings.max_steps)

    def save(self) -> None:
        """Write a checkpoint of everything, unless this step has one, and drop the oldest.

        Raises:
            NonFiniteError: a weight is NaN or infinite; the checkpoints there are stay.
        """
        if self._saved_step == self.progress.step:
            return
        if not all(weight.isfinite().all() for weight in self.weights):
            raise NonFiniteError(self.progress.step, self.seed)
        self.progress.metrics_position = self.logger.position
        tensors, optimizer = gather(self.model, self.optimizer, self.average)
        own = {"carried": named_tensors(self.carried)} if self.carried is not None else {}
        state = {"progress": asdict(self.progress), "optimizer": optimizer, "processes": self.group.count}
        checkpoint.save(self.folder, self.progress.step, tensors, own, state, self.group)
        self._saved_step = self.progress.step
        if self.group.leads:
            checkpoint.prune(self.folder, self.settings.keep_checkpoints, self.progress.best_step)

    def load(self, path: Path, continues: bool = True) -> None:
        """Take up a checkpoint: of this very run if it `continues`, of another one as a point to start from.

        From another run come weights, optimizer state, carried state and the step; its metrics and judgements do not.

        Raises:
            CheckpointError: it is damaged, belongs to another model or optimizer, or to other processes.
        """
        saved = checkpoint.load_own(path, self.group)
        restore(saved, self.model, self.optimizer, self.average)
        progress = Progress(**saved.state["progress"])
        self.progress = progress if continues else Progress(step=progress.step, phase_began=progress.phase_began)
        if "carried" in saved.tensors:
            with torch.no_grad():
                like = plain(self.model).initial_state(self.settings.batch_size)
            self.carried = from_named(saved.tensors["carried"], like)
        self._saved_step = progress.step if continues else None
        if self.group.leads:
            self.logger.rewind(self.progress.metrics_position)

    def evaluate(self, task: Task, split: Split) -> dict[str, float]:
        """Return metrics on a split, with averaged weights if they are kept."""
        bfloat16 = self.settings.precision == "bfloat16"
        with self.average.swapped() if self.average is not None else nullcontext():
            return evaluate(self.model, task, split, self.settings.eval_batch_size, self.group, bfloat16)

    @property
    def tested_checkpoint(self) -> Path:
        """The checkpoint whose weights are tested: the best where early stopping chose one, else the last."""
        best = self.progress.best_step
        return checkpoint.step_folder(self.folder, self.progress.step if best is None else best)

    def test(self) -> None:
        """Log metrics on the task's test sets, with the best weights where early stopping chose them."""
        if self.progress.best_step is not None:
            best = checkpoint.load(self.tested_checkpoint, self.group.device)
            restore(best, self.model, self.optimizer, self.average)
        for name, task in self.task.test_sets().items():
            self._log(name, self.evaluate(task, "test"))

    def _batch(self, micro_step: int) -> Batch:
        """Batches alternate between processes, but a carried stream stays with its process."""
        index, seed = micro_step * self.group.count + self.group.rank, self.seed
        if self.settings.carry_state:
            index, seed = micro_step, self.seed + RANK_SEEDS * self.group.rank
        return self.task.batch("train", index, self.settings.batch_size, seed).to(self.group.device)

    def _backward(self, batch: Batch, count: Tensor, last: bool) -> list[tuple[Batch, Tensor]]:
        """Add the gradient of a batch's share of the mean loss; return what was judged and its outputs."""
        state = first_state(plain(self.model), self.carried if self.settings.carry_state else None, batch)
        parts = []
        for window in batch.windows(self.settings.bptt_length):
            with without_sync(self.model, last):
                with torch.autocast(self.group.device.type, torch.bfloat16, self.settings.precision == "bfloat16"):
                    outputs, judged, state = answers(self.model, self.task, window, state)
                    loss = self.task.loss(outputs, judged)
                # processes' gradients are averaged, so each scales its sum by their number
                (loss * (self.group.count / count)).to(loss.dtype).backward()
            state = detach(state)
            parts.append((judged, outputs.detach()))
        if self.settings.carry_state:
            self.carried = state
        if len(parts) == 1 or self.task.judges_places:
            return parts
        return [(batch, torch.cat([outputs for _, outputs in parts], dim=1))]

    def _add_up(self, sums: dict[str, Tensor], norm: float) -> bool:
        """Add a step's metrics to the current row, the same in all processes; return whether any should stop."""
        flag = torch.full((1, 2), float(self._interrupted), dtype=torch.float64, device=self.group.device)
        rows = self.group.sum(torch.stack([*sums.values(), flag[0]])).tolist()
        self.progress.add(dict(zip(sums, rows, strict=False)), norm)
        if not (np.isfinite(norm) and np.isfinite(rows[0][0])):
            per_step = self.settings.accumulate * self.group.count
            first = self.progress.step * (self.settings.accumulate if self.settings.carry_state else per_step)
            data = f"task.batch('train', {first}, {self.settings.batch_size}, {self.seed})"
            raise NonFiniteError(self.progress.step, self.seed, rows[0][0], norm, data)
        return rows[-1][0] > 0

    def _after_step(self) -> None:
        """Log, evaluate, judge and save where these are due."""
        step, settings = self.progress.step, self.settings
        ends = step == settings.max_steps
        if self.reporter:
            self.reporter.step(step)
        if step % settings.log_every == 0 or ends:
            self._log_training()
        if step % settings.eval_every == 0 or ends:
            self._judge(self._log("validation", self.evaluate(self.task, "validation")))
        if plain(self.model).phases_left and step - self.progress.phase_began == settings.next_phase.steps:
            self._enter_next_phase()
        solved, further = self.progress.solved_at_step, settings.stop_after_solved
        if solved is not None and further is not None and step >= solved + further:
            self.progress.outcome = "solved"
        if step % settings.save_every == 0 or self.progress.best_step == step:
            self.save()

    def _log_training(self) -> None:
        sums, norms = self.progress.end_row()
        means = with_derived(self.task, {name: quotient(*pair) for name, pair in sums.items()})
        rate = self.optimizer.param_groups[0]["lr"]
        row = self._log("train", means | {"learning_rate": rate, "gradient_norm": quotient(*norms)})
        criterion = self.task.solved
        if criterion is not None and self.progress.solved_at_step is None and criterion.met(row[criterion.metric]):
            self.progress.solved_at_step = self.progress.step
        if self.group.leads:
            timing = {"step": self.progress.step, "seconds": self.progress.seconds}
            self.logger.timing(timing | {"sequences_per_second": self._pace.since_last(self.sequences)})

    def _judge(self, row: dict[str, Any]) -> None:
        """Note a validation; where it no longer improves, the model goes on to its next phase or training ends."""
        phases_left = plain(self.model).phases_left
        criterion = self.settings.criterion(phases_left)
        if criterion is not None and self.progress.judge(criterion, row[criterion.metric]):
            if phases_left:
                self._enter_next_phase()
            else:
                self.progress.outcome = "early_stopping"

    def _enter_next_phase(self) -> None:
        plain(self.model).enter_next_phase()
        self.progress.begin_phase()

    def _log(self, split: str, metrics: dict[str, float]) -> dict[str, Any]:
        row = {"step": self.progress.step, "sequences": self.sequences, "split": split, **metrics}
        if self.group.leads:
            self.logger.metrics(row)
        if self.reporter:
            self.reporter.metrics(row)
        return row
