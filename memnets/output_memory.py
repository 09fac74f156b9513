"""What a neural cache and a kNN-LM add to a trained language model: tuned on validation, then measured on the test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from memnets.contracts import Batch, Split
from memnets.memory.output.base import OutputMemory, log_probability_of, mix
from memnets.memory.output.datastore import Datastore
from memnets.memory.output.neural_cache import NeuralCache
from memnets.models.base import read_hidden
from memnets.ops.backend import use_backend
from memnets.tasks.language_modelling import perplexity
from memnets.trained import TrainedLanguageModel, read_language_model, weights_hash
from memnets.training.carry import first_state
from memnets.training.logger import now

SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of a memory that are tried. Two memories together leave the model at least a tenth."""

STRENGTHS = {"cache": (0.0, 1, 2, 4, 8, 16, 32, 64), "knn_lm": (0.5, 1, 2, 4, 8, 16, 32, 64)}
"""Strengths that are tried, times the mean squared length of what the head reads, so that any model's scale will do."""


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        path: a run folder, or one checkpoint.
        kind: `cache`, `knn_lm`, or `both`.
        size: entries of the cache.
        k: neighbours of a step in the datastore.
        entries: of the datastore, read from the training text's streams until there are so many; None: all of it.
        probes: of the cells that FAISS sorts the datastore into, how many are looked into; None: search is exact.
        overrides: of the run's configuration.
    """

    path: Path
    kind: str = "both"
    size: int = 2000
    k: int = 64
    entries: int | None = None
    probes: int | None = None
    overrides: list[str] = field(default_factory=list)


class Constants(NamedTuple):
    """A memory's strength and share; `at_edge`: the best strength tried was the least or the largest."""

    strength: float
    share: float
    at_edge: bool


@dataclass(frozen=True)
class Measured:
    """One line of the result: the memories of a mixture with their constants, and its perplexity."""

    memories: dict[str, Constants]
    validation: float
    test: float


class Result(NamedTuple):
    """What was measured: the model alone, with each memory, and with both.

    Attributes:
        rows: one for each.
        search_recall: share of the exact nearest entries of the datastore that were found; 1 without one.
    """

    rows: list[Measured]
    search_recall: float


def measure(wanted: Wanted, console: Console | None = None) -> Result:
    """Measure the model alone, with each memory, and with both; append it to the run's `evaluations.jsonl`.

    Texts are read in order, in `task.eval_streams` streams (one, if that is null), with state and memories carried from
    segment to segment. Strength and share of each memory minimise the loss on validation; for both together, the shares
    do once more. The test is read once, with these. The datastore is kept in the run's folder and used again.

    Raises:
        ConfigError, CheckpointError, DataError: as `read_language_model`.
        DatastoreError: the run's datastore is damaged, or was built from other weights, text or number of entries.
        ValueError: an unknown kind, or a size, k, number of entries or of probes below 1 or too large.
        ImportError: probes without FAISS.
    """
    if wanted.kind not in ("cache", "knn_lm", "both"):
        raise ValueError(f"kind={wanted.kind}: choose cache, knn_lm or both")
    trained = read_language_model(wanted.path, wanted.overrides)
    console = console or Console(stderr=True)
    with use_backend(trained.experiment.runtime.backend):
        memories = make_memories(trained, wanted, console)
        hidden = first_states(trained)
        scale = float(hidden.double().square().sum(-1).mean())
        store = memories.get("knn_lm")
        found = store.search_recall(hidden) if isinstance(store, Datastore) else 1.0
        tried = {name: [strength / scale for strength in STRENGTHS[name]] for name in memories}
        validation = recall(trained, "validation", memories, tried, console)
        mixtures = [{}, *tune(validation, tried)]
        chosen = {name: [one.strength] for mixture in mixtures for name, one in mixture.items() if len(mixture) == 1}
        test = recall(trained, "test", memories, chosen, console)
    rows = [
        Measured(mixture, perplexity(loss(validation, mixture, tried)), perplexity(loss(test, mixture, chosen)))
        for mixture in mixtures
    ]
    result = Result(rows, found)
    _append(trained, wanted, result)
    return result


def make_memories(trained: TrainedLanguageModel, wanted: Wanted, console: Console) -> dict[str, OutputMemory]:
    """Return the memories by name; the datastore from the run's folder, where one is there.

    Raises:
        DatastoreError: it was built from something else.
    """
    memories: dict[str, OutputMemory] = {}
    width, parameter = trained.model.head.in_features, trained.model.head.weight
    if wanted.kind in ("cache", "both"):
        memories["cache"] = NeuralCache(width, wanted.size).to(parameter)
    if wanted.kind in ("knn_lm", "both"):
        memories["knn_lm"] = _datastore(trained, wanted, console).to(trained.device)
    return memories


def _datastore(trained: TrainedLanguageModel, wanted: Wanted, console: Console) -> Datastore:
    folder, available = trained.folder / "datastore", trained.task.num_tokens("train")
    entries = available if wanted.entries is None else wanted.entries
    if not wanted.k <= entries <= available:
        raise ValueError(f"entries={entries}: the training text has {available} tokens, and k={wanted.k} are recalled")
    text = trained.task.fingerprint("train")
    origin = {"weights": weights_hash(trained.model), "text": text, "entries": entries}
    if not folder.exists():
        Datastore(*read_entries(trained, entries, console), k=wanted.k).save(folder, origin)
    return Datastore.load(folder, origin, wanted.k, wanted.probes)


@torch.no_grad()
def read_entries(trained: TrainedLanguageModel, entries: int, console: Console) -> tuple[Tensor, Tensor]:
    """What the head reads of the training text, `[entries hidden]`, and the words that follow, on the CPU.

    The text is read in as many streams as `trainer.eval_batch_size` has rows.
    """
    head, done = trained.model.head, 0
    keys = torch.empty(entries, head.in_features, dtype=head.weight.dtype)
    words = torch.empty(entries, dtype=torch.int32)
    streams = min(trained.experiment.trainer.eval_batch_size, trained.task.num_tokens("train"))
    for hidden, _, batch in reading(trained, "train", streams, console):
        following = batch.targets[batch.mask][: entries - done]
        keys[done : done + len(following)] = hidden[batch.mask][: len(following)].cpu()
        words[done : done + len(following)] = following.cpu()
        done += len(following)
        if done == entries:
            break
    return keys, words


def reading(
    trained: TrainedLanguageModel, split: Split, streams: int, console: Console
) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """What the head reads and what it says, `[batch time ...]`, segment by segment, with the state carried."""
    state = None
    numbers = range(trained.task.num_segments(split, streams))
    for index in track(numbers, f"reading {split}", console=console, transient=True):
        batch = trained.task.segment(split, index, streams).to(trained.device)
        hidden, outputs, state = read_hidden(trained.model, batch.inputs, first_state(trained.model, state, batch))
        yield hidden, outputs, batch


@torch.no_grad()
def first_states(trained: TrainedLanguageModel) -> Float[Tensor, "steps hidden"]:
    """What the head reads in the first segment of validation."""
    batch = trained.task.segment("validation", 0, 1).to(trained.device)
    hidden, _, _ = read_hidden(trained.model, batch.inputs)
    states: Tensor = hidden[batch.mask]
    return states


@torch.no_grad()
def recall(
    trained: TrainedLanguageModel,
    split: Split,
    memories: Mapping[str, OutputMemory],
    strengths: Mapping[str, Sequence[float]],
    console: Console,
) -> dict[str, Float[Tensor, "strengths tokens"]]:
    """Log-probability that the `model` (one row), and each memory at each strength, gives each token of a text.

    Raises:
        ValueError: the training text, with a datastore made of it: each step would find itself.
    """
    if split == "train" and any(isinstance(memory, Datastore) for memory in memories.values()):
        raise ValueError("the training text is in the datastore: measure on validation or test")
    streams = trained.task.eval_streams or 1
    states = {name: memory.initial_state(streams) for name, memory in memories.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in ("model", *memories)}
    for hidden, outputs, batch in reading(trained, split, streams, console):
        own = outputs.float().log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        parts["model"].append(own[None, batch.mask].cpu())
        for name, memory in memories.items():
            found, states[name] = memory(hidden, batch.targets, states[name])
            rows = [log_probability_of(batch.targets, found, strength, own) for strength in strengths[name]]
            parts[name].append(torch.stack([row[batch.mask] for row in rows]).cpu())
    return {name: torch.cat(rows, dim=1).double() for name, rows in parts.items()}


def tune(validation: Mapping[str, Tensor], tried: Mapping[str, Sequence[float]]) -> list[dict[str, Constants]]:
    """Return the constants of least loss, of each memory alone and, if there are two, of both together."""
    alone = [{name: _best(validation, tried, name)} for name in tried]
    if len(alone) < 2:
        return alone
    names = list(tried)
    constants = [one[name] for one, name in zip(alone, names, strict=True)]
    pairs = [pair for pair in itertools.product(SHARES, repeat=2) if sum(pair) <= 0.9]
    mixtures = [
        {name: one._replace(share=share) for name, one, share in zip(names, constants, pair, strict=True)}
        for pair in pairs
    ]
    return [*alone, min(mixtures, key=lambda mixture: loss(validation, mixture, tried))]


def _best(validation: Mapping[str, Tensor], tried: Mapping[str, Sequence[float]], name: str) -> Constants:
    edges = (min(tried[name]), max(tried[name]))
    grid = [Constants(*pair, at_edge=pair[0] in edges) for pair in itertools.product(tried[name], SHARES)]
    return min(grid, key=lambda constants: loss(validation, {name: constants}, tried))


def loss(
    recalled: Mapping[str, Tensor], mixture: Mapping[str, Constants], strengths: Mapping[str, Sequence[float]]
) -> float:
    """Mean negative log-probability of a text's tokens under a mixture, in nats."""
    parts = [recalled[name][list(strengths[name]).index(one.strength)] for name, one in mixture.items()]
    shares = [one.share for one in mixture.values()]
    return -float(mix([recalled["model"][0], *parts], [1.0 - sum(shares), *shares]).mean())


def _append(trained: TrainedLanguageModel, wanted: Wanted, result: Result) -> None:
    """Add a line to the run's evaluations."""
    settings = {
        "kind": wanted.kind,
        "size": wanted.size,
        "k": wanted.k,
        "entries": wanted.entries,
        "probes": wanted.probes,
    }
    line: dict[str, Any] = {"checkpoint": trained.checkpoint.name, "overrides": wanted.overrides, "date": now()}
    found = {"search_recall": result.search_recall, "rows": [_plain(row) for row in result.rows]}
    line["output_memory"] = settings | found
    with (trained.folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _plain(row: Measured) -> dict[str, Any]:
    return {**asdict(row), "memories": {name: constants._asdict() for name, constants in row.memories.items()}}
