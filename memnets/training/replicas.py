"""Runs that differ in their seed alone, trained as one: dispatch, not arithmetic, is what a small model costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from memnets.contracts import Batch, map_tensors
from memnets.streams import replica_streams
from memnets.training.seeds import step_seed
from memnets.training.trainer import Trainer


class ReplicaError(ValueError):
    """The replicas can't run as one."""


class Replicas:
    """Trainers that take their steps together: one forward and one backward pass for all.

    The trainers stay what they are alone: each draws its own batches and random numbers, clips, updates, logs,
    evaluates and saves. Only the passes are shared: by `torch.func.vmap` over parameters stacked along a first axis,
    of which each trainer's own are rows. One that has ended, or whose numbers are no longer finite, leaves the others.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        first = self.trainers[0]
        self.model, self.settings, self.device = first.model, first.settings, first.group.device
        self.parameters = _stack([trainer.model for trainer in trainers], nn.Module.named_parameters)
        self.buffers = _stack([trainer.model for trainer in trainers], nn.Module.named_buffers)
        self.gradients = {name: torch.zeros_like(stacked) for name, stacked in self.parameters.items()}
        for name, stacked in self.parameters.items():
            stacked.requires_grad_().grad = self.gradients[name]
            for trainer, row in zip(self.trainers, self.gradients[name], strict=True):
                trainer.model.get_parameter(name).grad = row

    def train_step(self) -> dict[Trainer, Exception]:
        """Take one step with all; return those that failed, which must not take another.

        Raises:
            ReplicaError: the model, or the task's batches, can't be stacked.
        """
        begun = [trainer.begin_step() for trainer in self.trainers]
        for gradient in self.gradients.values():
            gradient.zero_()
        seeds = [step_seed(trainer.seed, trainer.progress.step, 0) for trainer in self.trainers]
        with replica_streams(seeds, self.device):
            for batches in zip(*(batches for batches, _ in begun), strict=True):
                outputs = self._backward(batches, [count for _, count in begun])
                for trainer, batch, own in zip(self.trainers, batches, outputs, strict=True):
                    trainer.note(batch, own)
        failed: dict[Trainer, Exception] = {}
        for trainer in self.trainers:
            try:
                trainer.end_step()
            except Exception as error:
                failed[trainer] = error
        return failed

    def _backward(self, batches: Sequence[Batch], counts: Sequence[Tensor]) -> Tensor:
        """Add the gradient of every replica's own mean loss; return the outputs, replicas first."""
        inputs = _stack_batches([batch.inputs for batch in batches])
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.precision == "bfloat16"):
            try:
                outputs = vmap(self._outputs)(self.parameters, self.buffers, inputs)
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).splitlines()[0]
                raise ReplicaError(
                    f"{type(self.model).__name__} can't run as several replicas at once ({reason}). Without "
                    "trainer.num_replicas a sweep trains seeds side by side (-m seed=0,1 runtime.jobs=2); or try "
                    "runtime.backend=reference"
                ) from error
            losses = [
                trainer.task.loss(own, batch) * (1 / count)
                for trainer, own, batch, count in zip(self.trainers, outputs, batches, counts, strict=True)
            ]
        torch.stack([loss.to(outputs.dtype) for loss in losses]).sum().backward()
        return outputs.detach()

    def _outputs(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Any) -> Tensor:
        outputs: Tensor = functional_call(self.model, (parameters, buffers), (inputs,))[0]
        return outputs


def _stack(models: Sequence[nn.Module], named: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """Stack the models' tensors by name, and make the models' own tensors the rows."""
    tensors = [dict(named(model)) for model in models]
    stacks = {}
    for name in tensors[0]:
        stacks[name] = torch.stack([own[name].detach() for own in tensors])
        for own, row in zip(tensors, stacks[name], strict=True):
            own[name].data = row
    return stacks


def _stack_batches(inputs: Sequence[Any]) -> Any:
    try:
        return map_tensors(lambda *rows: torch.stack(rows), *inputs)
    except RuntimeError as error:
        raise ReplicaError(
            f"the replicas' batches differ in shape, so they can't be stacked ({str(error).splitlines()[0]}): "
            "a task for trainer.num_replicas gives batches of one shape"
        ) from error
