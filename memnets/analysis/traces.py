"""One sequence seen step by step: the `trace.safetensors` that a run or an evaluation leaves in its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from memnets.analysis.runs import RunError

TRACE = "trace.safetensors"
IN_USE = 0.05
EMITTED = "emitted."
ORDER = (
    "read_strength",
    "write_strength",
    "strength",
    "gate",
    "shift",
    "sharpening",
    "free_gates",
    "allocation_gate",
    "write_gate",
    "read_modes",
)
"""Emitted parts come in the order in which addressing uses them, others after."""

SHAPES = {
    "inputs": "time width",
    "targets": "time width",
    "outputs": "time width",
    "read_weights": "time heads slots",
    "write_weights": "time heads slots",
    "pictures": "time rows columns",
    "memory": "time kept word",
    "memory_slots": "kept",
    "usage": "time slots",
    "link": "time kept kept",
}
NEEDED = tuple(SHAPES)[:5]
OF_WRITE_HEADS = ("write_", "allocation_")


@dataclass(frozen=True)
class Trace:
    """What went in and out, and where the heads were; what else there is depends on the model.

    Attributes:
        inputs: `[time width]`; without the picture they begin with, if they do.
        targets: `[time width]`.
        outputs: `[time width]`.
        read_weights: `[time heads slots]`.
        write_weights: `[time heads slots]`.
        pictures: what inputs begin with, from 0 to 1, `[time rows columns]`.
        memory: content after each step, `[time kept word]`: of all slots, or of those that heads weigh most.
        memory_slots: which slots memory and links are about, `[kept]`.
        usage: how much each slot is in use, `[time slots]`.
        link: (i, j): how much slot i was written right after slot j, `[time kept kept]`.
        emitted: what the heads emit, by name, `[time heads]` or `[time heads parts]`.
    """

    inputs: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    read_weights: np.ndarray
    write_weights: np.ndarray
    pictures: np.ndarray | None = None
    memory: np.ndarray | None = None
    memory_slots: np.ndarray | None = None
    usage: np.ndarray | None = None
    link: np.ndarray | None = None
    emitted: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps of the sequence."""
        return len(self.inputs)

    @property
    def memory_size(self) -> int:
        """Slots that heads weigh."""
        return self.read_weights.shape[-1]

    @property
    def heads(self) -> np.ndarray:
        """Weights of all heads, write heads first."""
        return np.concatenate([self.write_weights, self.read_weights], axis=1)

    def head_names(self, emitted: str) -> list[str]:
        """Return whose each row of an emitted part is: of all heads, read heads first, or of one kind."""
        read = _numbered("read head", self.read_weights.shape[1])
        write = _numbered("write head", self.write_weights.shape[1])
        if self.emitted[emitted].shape[1] == len(read) + len(write):
            return read + write
        names = write if emitted.startswith(OF_WRITE_HEADS) else read
        count = self.emitted[emitted].shape[1]
        return names if len(names) == count else _numbered("head", count)


def read_trace(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        RunError: the file is corrupt, or its tensors are missing or don't fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        known = {name: tensors[name] for name in SHAPES if name in NEEDED or name in tensors}
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise RunError(f"{path.name} is no trace: {type(error).__name__}: {error}") from error
    emitted = {name.removeprefix(EMITTED): array for name, array in tensors.items() if name.startswith(EMITTED)}
    emitted = {name: emitted[name] for name in [*(name for name in ORDER if name in emitted), *emitted]}
    _check(path, known, emitted)
    arrays = {name: array.astype(int if name == "memory_slots" else np.float32) for name, array in known.items()}
    return Trace(**arrays, emitted={name: array.astype(np.float32) for name, array in emitted.items()})


def slots_in_use(weights: np.ndarray) -> np.ndarray:
    """Return the slots that `[time heads slots]` weights touch, as one stretch of the ring that slots form.

    The stretch goes round the widest gap between slots that ever get more than 0.05 of a head, with a slot's margin.
    """
    size = weights.shape[-1]
    used = np.flatnonzero(weights.max(axis=(0, 1)) > IN_USE)
    if not len(used):
        return np.arange(size)
    gaps = np.diff(np.append(used, used[0] + size))
    widest = int(gaps.argmax())
    if widest == len(used) - 1:  # the stretch doesn't pass the last slot: nor does its margin
        return np.arange(max(0, used[0] - 1), min(size, used[-1] + 2))
    first = used[widest + 1]
    length = size - int(gaps[widest]) + 1
    return np.arange(first - 1, first + length + 1) % size if length + 2 < size else np.arange(size)


def heaviest(weights: np.ndarray, count: int) -> np.ndarray:
    """Return, in their order, the slots that `[time heads slots]` weights are on: at most `count`, all if that few."""
    greatest = weights.max(axis=(0, 1))
    if len(greatest) <= count:
        return np.arange(len(greatest))
    first = np.argsort(-greatest, kind="stable")[:count]
    used = first[greatest[first] > IN_USE]
    return np.sort(used if len(used) else first)


def _check(path: Path, known: dict[str, np.ndarray], emitted: dict[str, np.ndarray]) -> None:
    """Refuse tensors that don't fit together."""
    sizes: dict[str, set[int]] = {}
    wrong = [name for name, array in known.items() if array.ndim != len(SHAPES[name].split()) or 0 in array.shape]
    for name in known.keys() - set(wrong):
        for axis, size in zip(SHAPES[name].split(), known[name].shape, strict=True):
            if axis not in ("width", "heads", "word"):
                sizes.setdefault(axis, set()).add(size)
    wrong += [axis for axis, found in sizes.items() if len(found) > 1]
    time = known["inputs"].shape[:1]
    wrong += [name for name, array in emitted.items() if array.ndim not in (2, 3) or array.shape[:1] != time]
    slots = known.get("memory_slots")
    if slots is None:
        wrong += ["memory_slots"] if {"memory", "link"} & known.keys() else []
    elif not wrong and not 0 <= slots.min() <= slots.max() < known["read_weights"].shape[-1]:
        wrong.append("memory_slots")
    if wrong:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in {**known, **emitted}.items())
        expected = ", ".join(f"{name} [{SHAPES[name]}]" for name in known)
        raise RunError(
            f"{path.name}: {', '.join(wrong)} don't fit the rest: expected {expected}, but there is {shapes}; "
            f"evaluate the run again to write a new one"
        )


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name} {number}" for number in range(1, count + 1)]
