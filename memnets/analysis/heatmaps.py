"""Where a memory was read and written, and what every map is drawn with: heads over slots and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from memnets.analysis.figures import new_figure, styled
from memnets.analysis.traces import Trace, slots_in_use

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS, WEIGHTS = "cividis", "magma"
"""Even in lightness, and alike for colour-blind readers."""

PANEL_NAMES = {"inputs": "Inputs", "targets": "Targets", "outputs": "Outputs"}
HEADS = {"write_weights": "Write weights", "read_weights": "Read weights"}


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
