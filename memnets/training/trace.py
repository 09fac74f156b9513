"""What a finished model did with its memory on one sequence, written for pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from memnets.contracts import Batch, Story, named_tensors
from memnets.files import write_atomic
from memnets.models.base import SequenceModel, trace
from memnets.tasks.base import Task

HEADS = ("read_weights", "write_weights")


@torch.no_grad()
def write_trace(model: SequenceModel, task: Task, folder: Path, device: torch.device) -> Path | None:
    """Write what there is to see, and return its file; None if the model shows nothing.

    `trace.safetensors`: inputs, targets, outputs, and every head's weights at each step of the longest of a few test
    sequences. `attention.json`: a story, its question, and the attention of each hop over the sentences.
    """
    model.eval()
    batch = longest_batch(task).to(device)
    if isinstance(batch.inputs, Story):
        return _write_attention(model, task, batch, folder / "attention.json")
    if task.spec.kind == "vectors":
        return _write_heads(model, batch, folder / "trace.safetensors")
    return None


def longest_batch(task: Task, among: int = 20) -> Batch:
    """Return the longest of a few test sequences: the one worth looking at."""
    candidates = [task.batch("test", index, 1, 0) for index in range(min(among, task.num_batches("test", 1)))]
    return max(candidates, key=_length)


def _length(batch: Batch) -> int:
    return int(batch.inputs.story.any(-1).sum()) if isinstance(batch.inputs, Story) else batch.mask.shape[1]


def _write_heads(model: SequenceModel, batch: Batch, path: Path) -> Path | None:
    outputs, states = trace(model, batch.inputs[:1])
    named = [named_tensors(state) for state in states]
    keys = [[key for key in named[0] if key.rpartition(".")[2] == head] for head in HEADS]
    if any(len(found) != 1 for found in keys):
        return None
    kept = {"inputs": batch.inputs[0], "targets": batch.targets[0], "outputs": torch.sigmoid(outputs[0])}
    for head, (key,) in zip(HEADS, keys, strict=True):
        kept[head] = torch.stack([state[key][0] for state in named])
    save_file({name: tensor.float().cpu().contiguous() for name, tensor in kept.items()}, path)
    return path


def _write_attention(model: SequenceModel, task: Task, batch: Batch, path: Path) -> Path | None:
    weights = model.attention(batch.inputs)
    if weights is None:
        return None
    logits, _ = model(batch.inputs)
    told = int(batch.inputs.story[0].any(-1).sum())

    def words(ids: Tensor) -> str:
        return " ".join(task.vocabulary[i] for i in ids.flatten().tolist() if i)

    content = {
        "story": [words(sentence) for sentence in batch.inputs.story[0, :told]],
        "query": words(batch.inputs.query[0]),
        "answer": words(batch.targets[0]),
        "prediction": words(logits[0].argmax()),
        "attention": weights[0, :, :told].tolist(),
    }
    write_atomic(path, json.dumps(content, indent=1))
    return path
