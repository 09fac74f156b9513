"""Where a memory was read and written: heads over slots and time, hops over sentences.

The trainer leaves `trace.safetensors` (a machine with heads: `inputs`, `targets`, `outputs` `[time, width]`,
`read_weights`, `write_weights` `[time, heads, slots]`) or `attention.json` (a memory network: `story`, `query`,
`answer`, `prediction`, `attention` `[hops][sentences]`) in a run's folder.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memnets.analysis.figures import new_figure, styled
from memnets.analysis.runs import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRACE, ATTENTION = "trace.safetensors", "attention.json"
BITS, WEIGHTS, ATTENTION_MAP = "cividis", "magma", "Blues"
"""Even in lightness, and alike for colour-blind readers."""

IN_USE = 0.05
PANEL_NAMES = {"inputs": "Inputs", "targets": "Targets", "outputs": "Outputs"}
HEADS = {"write_weights": "Write weights", "read_weights": "Read weights"}


@dataclass(frozen=True)
class Trace:
    """One sequence seen step by step: `[time, width]` thrice, and `[time, heads, slots]` for each kind of head."""

    inputs: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    read_weights: np.ndarray
    write_weights: np.ndarray


@dataclass(frozen=True)
class Attention:
    """What a memory network looked at on its way to an answer: `weights` `[hops, sentences]`."""

    story: tuple[str, ...]
    query: str
    answer: str
    prediction: str
    weights: np.ndarray


def read_trace(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        RunError: the file is corrupt, or its tensors are missing or don't fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    names = [field.name for field in fields(Trace)]
    try:
        tensors = load_file(path)
        trace = Trace(**{name: tensors[name].astype(np.float32) for name in names})
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise RunError(f"{path.name} is no trace: {type(error).__name__}: {error}") from error
    shapes = {name: array.shape for name, array in vars(trace).items()}
    ranks = [len(shapes[name]) - (3 if name in HEADS else 2) for name in shapes]
    if any(ranks) or len({shape[0] for shape in shapes.values()}) != 1 or 0 in np.shape(trace.inputs):
        raise RunError(
            f"{path.name}: the shapes {shapes} don't fit together: expected [time, width], heads [time, heads, slots]"
        )
    return trace


def read_attention(path: Path) -> Attention:
    """Return the attention in a file.

    Raises:
        RunError: the file is corrupt, an entry is missing, or there isn't one weight per sentence.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = np.array(content["attention"], dtype=float)
        query, answer, prediction = (str(content[name]) for name in ("query", "answer", "prediction"))
        story = tuple(map(str, content["story"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path.name} is no attention: {type(error).__name__}: {error}") from error
    if weights.ndim != 2 or weights.shape[1] != len(story) or not weights.size:
        raise RunError(
            f"{path.name}: weights {list(weights.shape)} for {len(story)} sentences; expected [hops, sentences]"
        )
    return Attention(story, query, answer, prediction, weights)


def slots_in_use(weights: np.ndarray) -> np.ndarray:
    """Return the slots that `[time, heads, slots]` weights touch, as one stretch of the ring that slots form.

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


@styled
def addressing(trace: Trace, title: str = "") -> Figure:
    """Return inputs, targets, outputs and the weights of every head over time (as figure 6 of the NTM paper)."""
    from matplotlib.ticker import MaxNLocator

    heads = np.concatenate([trace.write_weights, trace.read_weights], axis=1)
    slots = slots_in_use(heads)
    panels: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    panels += [(shown, getattr(trace, name), None) for name, shown in PANEL_NAMES.items()]
    for kind, name in HEADS.items():
        weights = getattr(trace, kind)
        panels += [(_head(name, head, weights), weights[:, head, slots], slots) for head in range(weights.shape[1])]
    heights = [
        0.35 + (0.085 * data.shape[1] if rows is None else max(0.9, 0.055 * len(rows))) for _, data, rows in panels
    ]
    figure = new_figure(min(14.0, 6.5 + 0.04 * len(trace.inputs)), sum(heights) + 0.7)
    shared = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    images = [_draw_panel(axes, *panel, heads.shape[-1]) for axes, panel in zip(shared, panels, strict=True)]
    bits = len(PANEL_NAMES)
    _colour_bar(images[0], shared[:bits], "value of a bit")
    _colour_bar(images[-1], shared[bits:], "weight")
    shared[-1].set_xlabel("time step")
    shared[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.align_ylabels(shared)
    if title:
        figure.suptitle(title, fontsize=12, color="#222222")
    return figure


@styled
def attention(shown: Attention) -> Figure:
    """Return the weights of every hop on every sentence, sentences in order of time, beside question and answer."""
    hops, sentences = shown.weights.shape
    figure = new_figure(4.6 + 0.62 * hops, 1.5 + 0.27 * sentences)
    axes = figure.subplots()
    image = axes.pcolormesh(shown.weights.T, cmap=ATTENTION_MAP, vmin=0, vmax=1, edgecolors="#DDDDDD", linewidth=0.6)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(hops) + 0.5, [f"hop {hop + 1}" for hop in range(hops)])
    axes.set_yticks(np.arange(sentences) + 0.5, [textwrap.shorten(text, 60, placeholder=" …") for text in shown.story])
    _bare(axes)
    for hop, sentence in np.argwhere(shown.weights > 0.1):
        value = shown.weights[hop, sentence]
        colour = "white" if value > 0.6 else "black"
        axes.text(hop + 0.5, sentence + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    verdict = "right" if shown.answer == shown.prediction else f"wrong: it is {shown.answer}"
    axes.set_title(f"{shown.query}\nanswered {shown.prediction} ({verdict})")
    _colour_bar(image, [axes], "attention")
    return figure


def draw_memory(folder: Path, title: str = "") -> dict[str, Figure]:
    """Return the heat maps of what a run's folder holds, by name: `addressing`, `attention`.

    Raises:
        RunError: a file is there but can't be drawn.
    """
    drawings: dict[str, tuple[str, Callable[[Path], Figure]]] = {
        "addressing": (TRACE, lambda path: addressing(read_trace(path), title)),
        "attention": (ATTENTION, lambda path: attention(read_attention(path))),
    }
    return {name: draw(folder / file) for name, (file, draw) in drawings.items() if (folder / file).exists()}


def _head(name: str, head: int, weights: np.ndarray) -> str:
    return name if weights.shape[1] == 1 else f"{name}, head {head + 1}"


def _draw_panel(axes: Axes, name: str, data: np.ndarray, slots: np.ndarray | None, memory_size: int) -> Any:
    cmap = BITS if slots is None else WEIGHTS
    image = axes.imshow(data.T, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="upper")
    axes.set_title(name if slots is None else f"{name}: {_stretch(slots, memory_size)}", loc="left")
    axes.set_ylabel("bit" if slots is None else "slot")
    _bare(axes)
    if slots is None:
        axes.set_yticks([0, data.shape[1] - 1])
    else:
        ticks = np.unique(np.linspace(0, len(slots) - 1, min(5, len(slots))).round().astype(int))
        axes.set_yticks(ticks, [str(slots[tick]) for tick in ticks])
    return image


def _stretch(slots: np.ndarray, memory_size: int) -> str:
    """Return the slots shown in words, a stretch that wraps around in two."""
    if len(slots) == memory_size:
        return f"all {memory_size} slots"
    breaks = np.flatnonzero(np.diff(slots) < 0)
    parts = np.split(slots, breaks + 1)
    return f"slots {', '.join(_from_to(part) for part in parts)} of {memory_size}"


def _from_to(part: np.ndarray) -> str:
    return str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}"


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour_bar(image: Any, panels: list[Axes], name: str) -> None:
    """Draw one bar for panels that share their colours."""
    bar = panels[0].figure.colorbar(image, ax=panels, ticks=[0, 0.5, 1], pad=0.015, aspect=30, fraction=0.03)
    bar.set_label(name)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
