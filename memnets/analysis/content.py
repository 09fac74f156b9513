"""What heads emit, and what they leave behind: memory content, usage and links, at a few moments or over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from memnets.analysis.figures import COLOURS, new_figure, styled
from memnets.analysis.heatmaps import WEIGHTS, bare, colour_bar, slot_ticks, stretch
from memnets.analysis.traces import Trace, slots_in_use

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNED = "PuOr_r"
"""Two colours from zero, told apart by colour-blind readers too."""

MOMENTS = 4
HEAD_COLOURS = {"read": COLOURS[0], "write": COLOURS[1], "head": COLOURS[6]}
STYLES = ("-", "--", ":", "-.")
PARTS = {"read_modes": ("backward", "content", "forward"), "link_sharpening": ("forward", "backward")}
DISTRIBUTIONS = ("shift", "read_modes")
SHARES = ("gate", "gates")


@styled
def memory(trace: Trace, title: str = "") -> Figure | None:
    """Return the memory's content after the first step, at the end, and at moments between; None without any."""
    if trace.memory is None:
        return None
    places, slots = kept_in_use(trace)
    moments = moments_of(trace)
    shown = trace.memory[:, places]
    largest = float(np.nanmax(np.abs(shown[moments]), initial=1e-6))
    figure = new_figure(
        1.6 + max(1.5, 0.09 * shown.shape[-1]) * len(moments), 1.5 + min(7.0, max(1.2, 0.1 * len(slots)))
    )
    panels = list(figure.subplots(1, len(moments), sharey=True, squeeze=False)[0])
    for axes, step in zip(panels, moments, strict=True):
        image = axes.imshow(
            shown[step], cmap=SIGNED, vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        axes.set_title(f"after step {step}", loc="left")
        axes.set_xlabel("component")
        _whole_numbers(axes)
        bare(axes)
    slot_ticks(panels[0], slots)
    panels[0].set_ylabel("slot")
    colour_bar(image, panels, "content", [-largest, 0.0, largest])
    return _titled(figure, title or f"Memory: {stretch(slots, trace.memory_size)}")


@styled
def links(trace: Trace, title: str = "") -> Figure | None:
    """Return the link matrix early, halfway and at the end; None for a model without links."""
    if trace.link is None:
        return None
    places, slots = kept_in_use(trace)
    moments = moments_of(trace)[1:] or [0]
    side = min(3.2, max(1.8, 0.09 * len(slots)))
    figure = new_figure(1.6 + side * len(moments), side + 1.2)
    panels = list(figure.subplots(1, len(moments), sharex=True, sharey=True, squeeze=False)[0])
    matrices = [trace.link[step][np.ix_(places, places)] for step in moments]
    largest = float(np.nanmax(matrices, initial=1e-6))
    for axes, matrix, step in zip(panels, matrices, moments, strict=True):
        image = axes.imshow(matrix, cmap=WEIGHTS, vmin=0, vmax=largest, interpolation="nearest")
        axes.set_title(f"after step {step}", loc="left")
        axes.set_xlabel("slot written before")
        bare(axes)
    slot_ticks(panels[0], slots)
    slot_ticks(panels[0], slots, "x")
    panels[0].set_ylabel("slot written next")
    colour_bar(image, panels, "link", [0.0, largest / 2, largest])
    return _titled(figure, title or f"Links: {stretch(slots, trace.memory_size)}")


@styled
def usage(trace: Trace, title: str = "") -> Figure | None:
    """Return how much each slot is in use over time; None for a model without usage."""
    if trace.usage is None:
        return None
    slots = slots_in_use(trace.heads)
    figure = new_figure(_width(trace), 1.3 + min(6.0, max(1.2, 0.1 * len(slots))))
    axes = figure.subplots()
    image = axes.imshow(trace.usage[:, slots].T, cmap=WEIGHTS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(f"Usage: {stretch(slots, trace.memory_size)}", loc="left")
    axes.set_ylabel("slot")
    slot_ticks(axes, slots)
    _over_time(axes)
    bare(axes)
    colour_bar(image, [axes], "usage")
    return _titled(figure, title)


@styled
def emitted(trace: Trace, title: str = "") -> Figure | None:
    """Return what the heads emit over time: lines for single numbers, a heat map per head for distributions."""
    panels = [panel for name in trace.emitted for panel in _panels(trace, name)]
    if not panels:
        return None
    heights = [1.3 if draw is _draw_lines else 0.75 for draw, *_ in panels]
    figure = new_figure(_width(trace), sum(heights) + 0.28 * len(panels) + 0.7)
    stacked = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    images = [draw(axes, trace, name, head) for axes, (draw, name, head) in zip(stacked, panels, strict=True)]
    maps = [(axes, image) for axes, image in zip(stacked, images, strict=True) if image is not None]
    if maps:
        colour_bar(maps[0][1], [axes for axes, _ in maps], "share")
    _over_time(stacked[-1])
    handles = {line.get_label(): line for axes in stacked for line in axes.lines if axes.get_legend_handles_labels()[0]}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    figure.align_ylabels(stacked)
    return _titled(figure, title)


def moments_of(trace: Trace) -> list[int]:
    """Return the first step, the last, and some evenly between."""
    return sorted({round(step) for step in np.linspace(0, trace.num_steps - 1, MOMENTS)})


def kept_in_use(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Return where in `memory_slots` the slots in use are, in the ring's order, and which slots they are."""
    assert trace.memory_slots is not None
    place = {int(slot): index for index, slot in enumerate(trace.memory_slots)}
    slots = [int(slot) for slot in slots_in_use(trace.heads) if int(slot) in place]
    return np.array([place[slot] for slot in slots]), np.array(slots)


def part_names(name: str, count: int) -> list[str]:
    """Return what the numbers of an emitted distribution stand for: shifts are by slots, the rest has names."""
    if name == "shift":
        return [f"{offset:+d}" if offset else "0" for offset in range(-(count // 2), count - count // 2)]
    names = PARTS.get(name, ())
    return list(names) if len(names) == count else [str(part) for part in range(count)]


Draw = Callable[["Axes", Trace, str, int], Any]


def _panels(trace: Trace, name: str) -> list[tuple[Draw, str, int]]:
    if name in DISTRIBUTIONS and trace.emitted[name].ndim == 3:
        return [(_draw_map, name, head) for head in range(trace.emitted[name].shape[1])]
    return [(_draw_lines, name, 0)]


def _draw_lines(axes: Axes, trace: Trace, name: str, _: int) -> None:
    """Draw a line per head, or per head and part: colours say which kind of head, strokes which of them."""
    values = trace.emitted[name].reshape(trace.num_steps, -1)
    names = trace.head_names(name)
    if trace.emitted[name].ndim == 3:
        names = [f"{head} {part}" for head in names for part in part_names(name, trace.emitted[name].shape[2])]
    kinds = [head.split()[0] for head in names]
    for index, (head, kind) in enumerate(zip(names, kinds, strict=True)):
        style = STYLES[kinds[:index].count(kind) % len(STYLES)]
        axes.plot(values[:, index], style, color=HEAD_COLOURS[kind], linewidth=1.5, label=head)
    axes.set_title(name.replace("_", " ").capitalize(), loc="left")
    if name.endswith(SHARES):
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1])
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True)


def _draw_map(axes: Axes, trace: Trace, name: str, head: int) -> Any:
    values = trace.emitted[name][:, head]
    image = axes.imshow(values.T, cmap=WEIGHTS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_title(f"{name.replace('_', ' ').capitalize()}, {trace.head_names(name)[head]}", loc="left")
    axes.set_yticks(range(values.shape[1]), part_names(name, values.shape[1]))
    bare(axes)
    return image


def _over_time(axes: Axes) -> None:
    axes.set_xlabel("time step")
    _whole_numbers(axes)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))


def _width(trace: Trace) -> float:
    return min(14.0, 6.5 + 0.04 * trace.num_steps)


def _titled(figure: Figure, title: str) -> Figure:
    if title:
        figure.suptitle(title, fontsize=12, color="#222222")
    return figure
