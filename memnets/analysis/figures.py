"""Learning curves over seeds, and how all figures look. matplotlib is imported when the first figure is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from memnets.analysis.groups import Group
from memnets.analysis.runs import Run, is_metric, number
from memnets.analysis.tables import better
from memnets.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.grid": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}
RESOLUTION = 150
SHOWN_SPLITS = ("train", "validation")
NOT_CURVES = ("learning_rate", "gradient_norm")
DECADES = 1.5
FEW = 12
"""Up to so many evaluations are marked: a line between few points promises more than was measured."""

Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """Make a drawing function use the one style, and leave matplotlib's global settings as they were."""

    @wraps(draw)
    def wrapped(*args: Any, **named: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **named)

    return wrapped  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, drawn without any display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=RESOLUTION, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=RESOLUTION)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, and return its path."""
    write_atomic(path, png(figure))
    return path


def curve_metrics(groups: Sequence[Group]) -> list[str]:
    """Return the metrics that some run has for training and validation both, loss first."""
    runs = [run for group in groups for run in group.runs]
    found = dict.fromkeys(
        name for run in runs for name in _metrics(run, "train") if name in _metrics(run, "validation")
    )
    return sorted(found, key=lambda name: name != "loss")


@styled
def learning_curves(groups: Sequence[Group], metrics: Sequence[str] = ()) -> Figure | None:
    """Return a row of panels per metric, training on the left, validation on the right; a colour per group.

    Thin lines are runs; the thick one is the median of those that finished, in which a run that has ended keeps its
    last value. The axis is
    logarithmic for errors and losses that span more than a decade and a half. None if there is nothing to draw.
    """
    metrics = list(metrics) or curve_metrics(groups)[:2]
    if not metrics:
        return None
    legend = 0.22 * math.ceil(len(groups) / 2) + 0.25
    figure = new_figure(9.0, 2.7 * len(metrics) + legend)
    panels = figure.subplots(len(metrics), 2, sharex=True, sharey="row", squeeze=False)
    for row, metric in enumerate(metrics):
        for column, split in enumerate(SHOWN_SPLITS):
            _draw_groups(panels[row][column], groups, split, metric)
        _scale(panels[row], groups, metric)
        panels[row][0].set_ylabel(metric.replace("_", " "))
    for column, split in enumerate(SHOWN_SPLITS):
        panels[0][column].set_title({"train": "training"}.get(split, split))
        panels[-1][column].set_xlabel("sequences seen")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(2, len(groups)))
    return figure


def curve(run: Run, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (sequences, values) of one run's metric on one split."""
    rows = [row for row in run.rows(split) if metric in row]
    return np.array([row["sequences"] for row in rows], float), np.array([number(row[metric]) for row in rows], float)


def median_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the median over runs at every point that any of them has; a run that has ended keeps its last value."""
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return np.empty(0), np.empty(0)
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points >= max(x[0] for x, _ in curves)]
    return points, np.median([np.interp(points, x, y) for x, y in curves], axis=0)


def _metrics(run: Run, split: str) -> list[str]:
    rows = run.rows(split)
    return [key for key, value in rows[-1].items() if is_metric(key, value) and key not in NOT_CURVES] if rows else []


def _draw_groups(axes: Axes, groups: Sequence[Group], split: str, metric: str) -> None:
    for index, group in enumerate(groups):
        colour = COLOURS[index % len(COLOURS)]
        style = ("-", "--", ":")[index // len(COLOURS) % 3]
        curves = [curve(run, split, metric) for run in group.runs]
        if len(curves) > 1:
            for x, y in curves:
                axes.plot(x, y, style, color=colour, linewidth=0.8, alpha=0.35)
        finished = [curve(run, split, metric) for run in group.done] or curves
        name = f"{group.label}  ({_count(group)})"
        x, y = median_curve(finished)
        marker = "o" if len(x) <= FEW else None
        axes.plot(x, y, style, color=colour, linewidth=2.0, marker=marker, markersize=4, label=name)


def _count(group: Group) -> str:
    total, done = len(group.runs), len(group.done)
    if total == 1:
        return "1 run" if done else "1 unfinished run"
    return f"median of {total} runs" if done in (0, total) else f"median of {done} finished of {total} runs"


def _scale(panels: Sequence[Axes], groups: Sequence[Group], metric: str) -> None:
    """Choose the axes of a row: logarithmic where an error spans decades, a share from 0 to 1, else from 0 or below."""
    from matplotlib.ticker import EngFormatter

    runs = [run for group in groups for run in group.runs]
    values = np.concatenate([curve(run, split, metric)[1] for run in runs for split in SHOWN_SPLITS])
    values = values[np.isfinite(values)]
    for axes in panels:
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
    if len(values) and better(metric) == "less" and _spans_decades(values):
        least = float(values[values > 0].min())
        if values.min() > 0:
            panels[0].set_yscale("log")
        else:  # a run without an error still has a place on the axis
            smallest = 10 ** math.floor(math.log10(least))
            panels[0].set_yscale("symlog", linthresh=smallest, linscale=0.4)
            panels[0].set_ylim(bottom=-0.2 * smallest)
    elif better(metric) == "more":
        panels[0].set_ylim(0, max(1.02, float(values.max(initial=0)) * 1.02))


def _spans_decades(values: np.ndarray) -> bool:
    positive = values[values > 0]
    return bool((values >= 0).all() and len(positive) and positive.max() / positive.min() > 10**DECADES)
