"""One process or many: what differs is here, so that the trainer reads as if there were one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
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
            dist.destroy_process_group()


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device by name; `auto` is this process's GPU if there is one, else the CPU.

    Raises:
        ValueError: the name is no device, or the machine has none such.
    """
    if device == "auto":
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"runtime.device={device} can't be used here: {str(error).splitlines()[0]}") from error
    return chosen


def distribute(model: nn.Module, group: Processes, parallel: Literal["ddp", "fsdp"]) -> nn.Module:
    """Wrap the model so that gradients are averaged over processes; `fsdp` also shards weights and optimizer state."""
    if group.count == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.type, (group.count,))
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # also after an evaluation, which has no backward
    return model


def plain(model: nn.Module) -> Any:
    """Return the model inside its wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Leave gradients unaveraged until the last of several backward passes."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
