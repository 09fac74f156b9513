"""How an error grows with length, beside the lengths that were trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from memnets.analysis.figures import COLOURS, new_figure, styled
from memnets.analysis.groups import Group
from memnets.analysis.runs import final
from memnets.analysis.tables import better

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, float]]
SET = re.compile(r"length_(\d+)")


def by_length(results: Results) -> dict[int, Mapping[str, float]]:
    """Return the metrics of the test sets that are named by a length, shortest first."""
    found = {int(match[1]): metrics for name, metrics in results.items() if (match := SET.fullmatch(name))}
    return dict(sorted(found.items()))


def trained_lengths(task: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the range that a task's configuration trains, by its first `min_…` and `max_…`; None if it has none."""
    for key, most in task.items():
        least = task.get(f"min_{key.removeprefix('max_')}")
        if key.startswith("max_") and isinstance(least, int) and isinstance(most, int):
            return least, most
    return None


@styled
def error_by_length(results: Results, trained: tuple[int, int] | None = None, title: str = "") -> Figure | None:
    """Return a panel per metric but the loss, the trained lengths shaded; None for fewer than two lengths."""
    from matplotlib.ticker import MaxNLocator

    lengths = by_length(results)
    metrics = [name for name in next(iter(lengths.values()), {}) if name != "loss"] or ["loss"]
    if len(lengths) < 2:
        return None
    figure = new_figure(6.5, 0.6 + 2.4 * len(metrics))
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        values = np.array([lengths[length].get(metric, np.nan) for length in lengths], float)
        if trained is not None:
            axes.axvspan(*trained, color="#E9EDF2", linewidth=0)
        axes.plot(list(lengths), values, "-o", color=COLOURS[0], linewidth=1.8, markersize=5, clip_on=False)
        axes.set_ylabel(metric.replace("_", " "))
        share = better(metric) == "more" or not np.nanmax(values, initial=0) > 0
        axes.set_ylim(0, 1.02 if share else None)
        axes.set_xlim(left=0)
        axes.grid(visible=True)
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("length")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if trained is not None:
        panels[0].set_title(
            f"grey: trained lengths, {trained[0]} to {trained[1]}", loc="left", fontsize=9, color="#444444"
        )
    if title:
        figure.suptitle(title, fontsize=12, color="#222222")
    return figure


@styled
def errors_by_length(groups: Sequence[Group], metric: str) -> Figure | None:
    """Return one panel: a line per group, its median over seeds at each length, and a band from quartile to quartile.

    None if no group has finished runs with that metric at two lengths.
    """
    from matplotlib.ticker import MaxNLocator

    curves = {group.label: curve for group in groups if len(curve := _curve(group, metric)) > 1}
    if not curves:
        return None
    figure = new_figure(6.5, 3.4 + 0.2 * len(curves))
    axes = figure.subplots()
    for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
        lengths, values = list(curve), np.array(list(curve.values()))
        axes.fill_between(lengths, values[:, 0], values[:, 2], color=colour, alpha=0.15, linewidth=0)
        axes.plot(lengths, values[:, 1], "-o", color=colour, linewidth=1.8, markersize=4, label=label)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("length")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(metric.replace("_", " "))
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    trained = trained_lengths(groups[0].runs[0].config.get("task") or {})
    if trained is not None:
        axes.axvspan(*trained, color="#E9EDF2", linewidth=0, zorder=0)
        axes.set_title(f"grey: trained lengths, {trained[0]} to {trained[1]}", loc="left", fontsize=9, color="#444444")
    figure.legend(loc="outside lower center", ncols=min(2, len(curves)))
    return figure


def _curve(group: Group, metric: str) -> dict[int, np.ndarray]:
    """Return lower quartile, median and upper quartile of a group's finished runs at each length."""
    results = [final(run) for run in group.done]
    names = {name for result in results for name in result if name.endswith(f"/{metric}")}
    lengths = {int(match[1]): name for name in names if (match := SET.fullmatch(name.partition("/")[0]))}
    return {
        length: np.quantile([result[name] for result in results if name in result], [0.25, 0.5, 0.75])
        for length, name in sorted(lengths.items())
    }
