"""One process or many: what differs is here, so that the trainer reads as if there were one."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those `torchrun` started; alone otherwise."""

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes shared files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Return when all processes have come this far."""
        if self.count > 1:
            dist.barrier()

    def share(self, value: Any) -> Any:
        """Return the leading process's value in all of them."""
        box = [value]
        if self.count > 1:
            dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the other processes for as long as the context lasts: nccl between GPUs, gloo between CPUs.

    Raises:
        ValueError: the device does not exist.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if count > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    group = Processes(rank, count, chosen)
    try:
        yield group
        group.wait()  # a process that leaves early can bring the others down
    finally:
        if count > 1:
            gc.collect()  # a wrapped model in a reference cycle would hold the group until the interpreter is half gone
            dist.destroy_process_group()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device by name; `cuda` is this process's GPU, `auto` this if there is one and else the CPU.

    Raises:
        ValueError: the name is no device, or the machine has none such.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(f"cuda:{local_rank}" if device == "cuda" else device)
        torch.empty(0, device=chosen)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"runtime.device={device} can't be used here: {str(error).splitlines()[0]}") from error
    return chosen


def distribute(model: nn.Module, group: Processes, parallel: Literal["ddp", "fsdp"], pieces: bool) -> nn.Module:
    """Wrap the model so that gradients are averaged over processes; `fsdp` also shards weights and optimizer state.

    With `pieces`, a sequence is read in several forward passes, and the last alone does not use every parameter. DDP
    can't reduce such gradients as they come: the model stays as it is, for `average_gradients`.
    """
    if group.count == 1 or (parallel == "ddp" and pieces):
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(group.device.type, (group.count,))
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # also after an evaluation, which has no backward
    register_fsdp_forward_method(model, "attention")  # evaluation calls it beside forward
    return model


def average_gradients(model: nn.Module, group: Processes) -> None:
    """Average the gradients of a model that no wrapper averages; one that a process lacks counts as zero."""
    if group.count == 1 or isinstance(model, DistributedDataParallel):
        return
    weights = list(model.parameters())
    if any(isinstance(weight, DTensor) for weight in weights):
        return
    for weight in weights:
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    flat = group.sum(flat) / group.count
    for weight, piece in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = piece.view_as(weight)


def plain(model: nn.Module) -> Any:
    """Return the model inside its wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Leave gradients unaveraged until the last of several backward passes."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
