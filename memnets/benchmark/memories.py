"""What a memory costs a Transformer: a training step with it and one without, in turns; and the memory both take."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memnets.analysis.costs import CostRecord
from memnets.benchmark.timing import in_turns, threads
from memnets.config import build_model, check, compose
from memnets.contracts import Spec, detach
from memnets.models.base import SequenceModel

VOCABULARY, BATCH, TIME = 256, 4, 512
SIZES = (
    "model.d_model=256",
    "model.num_layers=4",
    "model.num_heads=4",
    f"model.window={TIME}",
    "model.feed_forward_size=1024",
)
PLAIN = "model=transformer"
EVERYWHERE = "model.memory_layers=null"
KNN = ("model=memory_transformer", "model.memory.top_k=32", "model.memory.differentiable=false")
AGE_KEY = "model=memory_transformer_age_key"
KINDS: Mapping[str, tuple[str, ...]] = {
    "persistent 16": ("model=memory_transformer_persistent",),
    "memory tokens 16": ("model=memory_transformer_tokens",),
    "recurrent tokens 16": ("model=memory_transformer_recurrent_tokens",),
    "product keys 262k": ("model=memory_transformer_product_key", "model.memory.num_slots=262144"),
    "knn 8192": (*KNN, "model.memory.capacity=8192"),
    "knn 65536": (*KNN, "model.memory.capacity=65536"),
    "knn 8192 age key": (AGE_KEY, *KNN[1:], "model.memory.capacity=8192"),
    "segment cache 512": ("model=memory_transformer_segment_cache", "model.memory.capacity=512"),
    "delta": ("model=memory_transformer_delta", EVERYWHERE),
    "gated delta": ("model=memory_transformer_gated_delta", EVERYWHERE),
    "compressive": ("model=memory_transformer_compressive", EVERYWHERE),
    "test-time": ("model=memory_transformer_test_time", EVERYWHERE),
}
"""Overrides by name: the model's own file, sizes that matter here."""

CHUNKS_TO_FILL = 2
"""Steps taken before a carried state counts, unless a memory's capacity needs more."""


def measure_cost(name: str, state: str, num_threads: int, seconds: float, made_by: Mapping[str, Any]) -> CostRecord:
    """Time a kind of memory against none, and weigh both."""
    with threads(num_threads):
        turns = {side: training_step(overrides, state) for side, overrides in _sides(name).items()}
        times = in_turns(turns, seconds, "cpu")
    peaks = {side: peak_mb(overrides, state, num_threads) for side, overrides in _sides(name).items()}
    with_it, without = times["memory"].best, times["plain"].best
    return CostRecord(
        memory=name,
        state=state,
        threads=num_threads,
        plain_ms=1e3 * without,
        memory_ms=1e3 * with_it,
        ratio=with_it / without,
        plain_peak_mb=peaks["plain"],
        peak_mb=peaks["memory"],
        model=" ".join(KINDS[name]),
        **made_by,
    )


def _sides(name: str) -> dict[str, tuple[str, ...]]:
    return {"plain": (PLAIN,), "memory": KINDS[name]}


def make_model(overrides: tuple[str, ...]) -> SequenceModel:
    """Return a decoder of the sizes all kinds are compared at."""
    torch.manual_seed(0)
    config = compose([*overrides, *SIZES]).config
    check(config)
    return build_model(config, Spec("tokens", VOCABULARY, VOCABULARY))


def training_step(overrides: tuple[str, ...], state: str) -> Callable[[], None]:
    """Return a step, forward and backward, of rows that begin with it (`fresh`) or whose memory is full (`carried`)."""
    model = make_model(overrides)
    inputs = torch.randint(VOCABULARY, (BATCH, TIME), generator=torch.Generator().manual_seed(0))
    before = None if state == "fresh" else read_until_full(model, inputs)

    def step() -> None:
        model.zero_grad()
        outputs, _ = model(inputs, before)
        outputs.square().mean().backward()

    return step


@torch.no_grad()
def read_until_full(model: SequenceModel, inputs: Tensor) -> Any:
    """Return the state after so many chunks that windows and memories of this capacity are full."""
    capacities = [getattr(module, "capacity", 0) for module in model.modules()]
    state = None
    for _ in range(CHUNKS_TO_FILL + max(capacities) // TIME):
        _, state = model(inputs, state)
    return detach(state)


def peak_mb(overrides: tuple[str, ...], state: str, num_threads: int) -> float:
    """Return the peak of a process of its own that takes two steps, beyond what importing took."""
    script = "from memnets.benchmark.memories import weigh; weigh()"
    asked = json.dumps([overrides, state, num_threads])
    done = subprocess.run([sys.executable, "-c", script, asked], capture_output=True, text=True, check=True)
    return float(done.stdout)


def weigh() -> None:
    """In a process of its own: print the megabytes that two steps take beyond what the process had before."""
    overrides, state, num_threads = json.loads(sys.argv[1])
    torch.set_num_threads(num_threads)
    before = _most_mb()
    step = training_step(tuple(overrides), state)
    step()
    step()
    print(_most_mb() - before)


def _most_mb() -> float:
    """Largest resident set of this process so far.

    Linux keeps the parent's in `ru_maxrss` (kilobytes) of a child, but not in its own status; macOS has bytes there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return float(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
