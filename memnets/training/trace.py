"""What a finished model did with its memory on one sequence, or on a few questions, written for pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import one_hot

from memnets.contracts import Batch, named_tensors
from memnets.files import write_atomic
from memnets.models.base import SequenceModel, watch
from memnets.tasks.base import Task

HEADS = {"read_weights": "read_slots", "write_weights": "write_slots"}
"""Weights of heads, and the slots they are at where weights are sparse."""

QUESTIONS = 4
"""So many are shown of a task that has words for them."""

LIMIT = 8_000_000
"""Numbers that memory and links may take each; beyond, the slots that heads never weigh much are left out."""


@torch.no_grad()
def write_trace(model: SequenceModel, task: Task, folder: Path, device: torch.device) -> Path | None:
    """Write what there is to see, and return its file; None if the model shows nothing.

    `trace.safetensors`: the longest of a few test sequences step by step, as `memnets.analysis.traces` reads it.
    `attention.json`: a few test questions with what there was to read, as `memnets.analysis.attention` reads them.
    """
    model.eval()
    if task.spec.kind == "vectors":
        return _write_heads(model, task, longest_batch(task).to(device), folder / "trace.safetensors")
    return _write_attention(model, task, device, folder / "attention.json")


def longest_batch(task: Task, among: int = 20) -> Batch:
    """Return the longest of a few test sequences: the one worth looking at."""
    candidates = [task.batch("test", index, 1, 0) for index in range(min(among, task.num_batches("test", 1)))]
    return max(candidates, key=lambda batch: batch.mask.shape[1])


def _write_heads(model: SequenceModel, task: Task, batch: Batch, path: Path) -> Path | None:
    outputs, states, emitted = watch(model, batch.inputs[:1])
    found = _by_name(states)
    if not HEADS.keys() <= found.keys():
        return None
    targets, answers = batch.targets[0], task.probabilities(outputs[0])
    if targets.dim() == 1:  # classes
        targets, answers = one_hot(targets.long(), outputs.shape[-1]), outputs[0].softmax(-1)
    shown = _inputs(batch.inputs[0], task.picture_size) | {"targets": targets, "outputs": answers}
    shown |= _weights(found)
    shown |= _content(found, shown)
    shown |= {f"emitted.{name}": values[:, 0] for name, values in emitted.items()}
    save_file({name: _plain(tensor) for name, tensor in shown.items()}, path)
    return path


def _inputs(inputs: Tensor, picture_size: tuple[int, int] | None) -> dict[str, Tensor]:
    """Return pictures, if inputs begin with one, and what else is in the inputs."""
    if picture_size is None:
        return {"inputs": inputs}
    pictures, others = inputs.tensor_split([math.prod(picture_size)], dim=1)
    return {"inputs": others, "pictures": pictures.unflatten(1, picture_size)}


def _by_name(states: list[Any]) -> dict[str, list[Tensor]]:
    """Return what the states hold of their only row, step by step, under every name that occurs once in a state."""
    named = [named_tensors(state) for state in states]
    last = [key.rpartition(".")[2] for key in named[0]]
    return {
        name: [state[key][0] for state in named]
        for key, name in zip(named[0], last, strict=True)
        if last.count(name) == 1
    }


def _weights(found: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Return each kind of heads' weights over all slots: those that a sparse memory has touched in the end."""
    if not HEADS.values() & found.keys():
        return {head: torch.stack(found[head]) for head in HEADS}
    size = max(1 + int(slots.max()) for name in HEADS.values() for slots in found[name])
    size = max(size, found["memory"][-1].shape[0])
    return {
        head: torch.stack([_dense(*pair, size) for pair in zip(found[head], found[slots], strict=True)])
        for head, slots in HEADS.items()
    }


def _content(found: dict[str, list[Tensor]], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return memory and links over `memory_slots`, and usage over all: those of them that the states hold."""
    content = {"usage": torch.stack(found["usage"])} if "usage" in found else {}
    if "memory" not in found:
        return content
    greatest = torch.cat([weights[head] for head in HEADS], dim=1).amax(dim=(0, 1))
    room = LIMIT // found["memory"][-1].shape[1] // len(found["memory"])
    if "link" in found:
        room = min(room, math.isqrt(LIMIT // len(found["link"])))
    slots = greatest.topk(max(1, min(room, len(greatest)))).indices.sort().values
    memories = [_rows(memory, len(greatest))[slots] for memory in found["memory"]]
    content |= {"memory_slots": slots, "memory": torch.stack(memories)}
    if "link" in found:
        content["link"] = torch.stack([link[slots][:, slots] for link in found["link"]])
    return content


def _dense(weights: Tensor, slots: Tensor, size: int) -> Tensor:
    """Return weights at slots, `[heads places]` both, as weights over all slots."""
    return weights.new_zeros(weights.shape[0], size).scatter_add(1, slots, weights)


def _rows(memory: Tensor, size: int) -> Tensor:
    """Return a memory with rows of zeros up to `size`: a sparse one holds no more than was touched."""
    return torch.cat([memory, memory.new_zeros(size - memory.shape[0], memory.shape[1])])


def _plain(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous()


def _write_attention(model: SequenceModel, task: Task, device: torch.device, path: Path) -> Path | None:
    entries = [_question(model, task, batch.to(device)) for batch in spread_batches(task)]
    shown = [entry for entry in entries if entry is not None]
    if not shown:
        return None
    write_atomic(path, json.dumps(shown, indent=1))
    return path


def spread_batches(task: Task) -> list[Batch]:
    """Return a few test questions, spread evenly over all of them: neither the best nor the worst."""
    last = task.num_batches("test", 1) - 1
    places = sorted({round(last * part / (QUESTIONS - 1)) for part in range(QUESTIONS)})
    return [task.batch("test", place, 1, 0) for place in places]


def _question(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Any] | None:
    """Return what `memnets.analysis.attention` reads of a question; None if there are no words, or no memory is read.

    Rows are what the model's attention weighs; of one that shows none but hands out a Block, the slots of its memory.
    """
    texts = task.texts(batch)
    if texts is None:
        return None
    outputs, state = model(batch.inputs)
    weights, block, items = model.attention(batch.inputs), model.block(batch.inputs, state), texts.items
    supports = batch.supports
    if weights is None and block is not None:
        weights, items, supports = block.scores[:, None], _slots(block.mask[0], block.rows[0]), None
    if weights is None:
        return None
    entries = _entries(items, None if block is None or block.tokens is None else block.rows[0])
    if not entries:
        return None
    shown = [torch.tensor(own) for own in entries]
    return {
        "story": [items[own[0]] for own in entries],
        "query": texts.query,
        "answer": texts.answers[int(batch.targets[batch.mask])],
        "prediction": texts.answers[int(outputs[batch.mask].argmax())],
        "supports": None if supports is None else [i for i, own in enumerate(shown) if supports[0, own].any()],
        "attention": [[float(hop[own].sum()) for own in shown] for hop in weights[0].cpu()],
    }


def _slots(held: Tensor, rows: Tensor) -> list[str]:
    """Name the slots that hold something."""
    return [f"slot {row}" if there else "" for row, there in zip(rows.tolist(), held.tolist(), strict=True)]


def _entries(items: Sequence[str], rows: Tensor | None) -> list[list[int]]:
    """Return the items of each entry, in order, padding left out: those of a row where items are tokens, else one."""
    entries: dict[int, list[int]] = {}
    for item, text in enumerate(items):
        if text:
            entries.setdefault(item if rows is None else int(rows[item]), []).append(item)
    return list(entries.values())
