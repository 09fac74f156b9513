"""Where a memory was read and written: heads over slots and time, hops over sentences.

The trainer leaves `trace.safetensors` (a machine with heads) or `attention.json` (a memory network: `story`, `query`,
`answer`, `prediction`, `attention` `[hops][sentences]`) in a run's folder.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from memnets.analysis.figures import new_figure, styled
from memnets.analysis.runs import RunError
from memnets.analysis.traces import TRACE, Trace, read_trace, slots_in_use

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTENTION = "attention.json"
BITS, WEIGHTS, ATTENTION_MAP = "cividis", "magma", "Blues"
"""Even in lightness, and alike for colour-blind readers."""

PANEL_NAMES = {"inputs": "Inputs", "targets": "Targets", "outputs": "Outputs"}
HEADS = {"write_weights": "Write weights", "read_weights": "Read weights"}


@dataclass(frozen=True)
class Attention:
    """What a memory network looked at on its way to an answer: `weights` `[hops, sentences]`."""

    story: tuple[str, ...]
    query: str
    answer: str
    prediction: str
    weights: np.ndarray


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


@styled
def addressing(trace: Trace, title: str = "") -> Figure:
    """Return inputs, targets, outputs and the weights of every head over time (as figure 6 of the NTM paper)."""
    from matplotlib.ticker import MaxNLocator

    heads = trace.heads
    slots = slots_in_use(heads)
    panels: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    panels += [(shown, getattr(trace, name), None) for name, shown in PANEL_NAMES.items()]
    for kind, name in HEADS.items():
        weights = getattr(trace, kind)
        panels += [(_head(name, head, weights), weights[:, head, slots], slots) for head in range(weights.shape[1])]
    heights = [
        0.35 + (min(4.0, 0.085 * data.shape[1]) if rows is None else max(0.9, 0.055 * len(rows)))
        for _, data, rows in panels
    ]
    figure = new_figure(min(14.0, 6.5 + 0.04 * len(trace.inputs)), sum(heights) + 0.7)
    shared = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    images = [_draw_panel(axes, *panel, heads.shape[-1]) for axes, panel in zip(shared, panels, strict=True)]
    bits = len(PANEL_NAMES)
    colour_bar(images[0], shared[:bits], "value of a bit")
    colour_bar(images[-1], shared[bits:], "weight")
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
    bare(axes)
    for hop, sentence in np.argwhere(shown.weights > 0.1):
        value = shown.weights[hop, sentence]
        colour = "white" if value > 0.6 else "black"
        axes.text(hop + 0.5, sentence + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    verdict = "right" if shown.answer == shown.prediction else f"wrong: it is {shown.answer}"
    axes.set_title(f"{shown.query}\nanswered {shown.prediction} ({verdict})")
    colour_bar(image, [axes], "attention")
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
    axes.set_title(name if slots is None else f"{name}: {stretch(slots, memory_size)}", loc="left")
    axes.set_ylabel("bit" if slots is None else "slot")
    bare(axes)
    if slots is None:
        axes.set_yticks([0, data.shape[1] - 1])
    else:
        slot_ticks(axes, slots)
    return image


def stretch(slots: np.ndarray, memory_size: int) -> str:
    """Return the slots shown in words, a stretch that wraps around in two."""
    if len(slots) == memory_size:
        return f"all {memory_size} slots"
    breaks = np.flatnonzero(np.diff(slots) < 0)
    parts = np.split(slots, breaks + 1)
    return f"slots {', '.join(_from_to(part) for part in parts)} of {memory_size}"


def _from_to(part: np.ndarray) -> str:
    return str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}"


def slot_ticks(axes: Axes, slots: np.ndarray, side: Literal["x", "y"] = "y") -> None:
    """Number a few of the slots along an axis."""
    ticks = np.unique(np.linspace(0, len(slots) - 1, min(5, len(slots))).round().astype(int))
    (axes.set_yticks if side == "y" else axes.set_xticks)(ticks, [str(slots[tick]) for tick in ticks])


def bare(axes: Axes) -> None:
    """Take away ticks and frame."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def colour_bar(image: Any, panels: list[Axes], name: str, ticks: Sequence[float] = (0.0, 0.5, 1.0)) -> None:
    """Draw one bar for panels that share their colours."""
    bar = panels[0].figure.colorbar(image, ax=panels, ticks=list(ticks), pad=0.015, aspect=30, fraction=0.03)
    bar.set_label(name)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
