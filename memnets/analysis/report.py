"""A report on a set of runs: its pictures as PNG files, and all of it as one page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memnets.analysis.attention import ATTENTION, attention, read_attention
from memnets.analysis.attention_page import ATTENTION_PAGE, write_attention_page
from memnets.analysis.content import emitted, links, memory, usage
from memnets.analysis.figures import COLOURS, curve_metrics, learning_curves, png, save_figure
from memnets.analysis.groups import Group, group_runs
from memnets.analysis.heatmaps import addressing
from memnets.analysis.lengths import Results, error_by_length, errors_by_length, trained_lengths
from memnets.analysis.page import Picture, page
from memnets.analysis.records import state
from memnets.analysis.runs import Problem, Run, RunError, read_run
from memnets.analysis.stepper import STEPS, write_steps
from memnets.analysis.tables import HEADER, cells, plain, statistics
from memnets.analysis.traces import TRACE, read_trace
from memnets.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCES = ("chance", "oracle")
CAPTIONS = {"addressing": "One test sequence", "attention": "A few test questions, ● their true supporting facts"}


@dataclass(frozen=True)
class Report:
    """What there is to say about some runs.

    Attributes:
        groups: the runs by configuration.
        problems: folders and files that were left out, and why.
    """

    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: a header, and a row per experiment and metric of the finished runs.

        Beside the metrics stand `chance` and `oracle`, as far as any of the runs tells them.
        """
        told = [name for name in REFERENCES if any(name in group.references for group in self.groups)]
        lines = [(group, result) for group in self.groups for result in statistics(group)]
        rows = [_beside(cells(group.label, result), _compared(group, result.metric, told)) for group, result in lines]
        return [_beside(HEADER, told), *rows]

    def unfinished(self) -> list[Problem]:
        """Return the runs that don't count in the table, and why."""
        runs = [run for group in self.groups for run in group.runs]
        return [Problem(run.path, state(run)) for run in runs if not run.done]


def _beside(row: Sequence[str], compared: Sequence[str]) -> tuple[str, ...]:
    """Put what the mean is compared with next to it."""
    mean = HEADER.index("mean ± std") + 1
    return *row[:mean], *compared, *row[mean:]


def _compared(group: Group, metric: str, names: Sequence[str]) -> list[str]:
    values = [group.references.get(name, {}).get(metric) for name in names]
    return ["" if value is None else plain(value) for value in values]


def make_report(runs: Sequence[Run], problems: Sequence[Problem] = ()) -> Report:
    """Return the report on some runs."""
    return Report(tuple(group_runs(runs)), tuple(problems))


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html` and its pictures into a folder; return the page."""
    faults = list(report.problems)
    pictures = [*_curves(report.groups), *_lengths(report.groups), *_memories(report.groups, faults)]
    for picture in pictures:
        write_atomic(folder / f"{picture.name}.png", picture.content)
    path = folder / "report.html"
    write_atomic(path, page(report.groups, report.rows(), pictures, [*report.unfinished(), *faults]).encode())
    return path


def draw_run(folder: Path) -> list[Path]:
    """Write the pictures of one run into its folder and return them.

    `learning_curve.png`, heat maps of the traces there are, and a page of each: `steps.html` to step through a
    sequence, `attention.html` with questions and what each hop looked at.

    Raises:
        RunError: the folder holds no readable run, or a trace that can't be drawn.
    """
    run = read_run(folder)
    curves = learning_curves(group_runs([run]))
    figures: dict[str, Figure | None] = {"learning_curve": curves, **draw_memory(folder, run.name)}
    return [*_save(figures, folder), *_pages(folder, run.name)]


def draw_evaluation(folder: Path, results: Results) -> list[Path]:
    """Write what an evaluation of a run shows into the run's `evaluation/`; return the paths.

    Of a trace: `addressing.png`, `memory.png`, `emitted.png`, `usage.png`, `links.png`, as far as the model has them,
    and `steps.html`. Of stories: `attention.png` and `attention.html`. Of results at several lengths:
    `error_by_length.png`.

    Raises:
        RunError: the folder holds no readable run, or a trace that can't be drawn.
    """
    run, inside = read_run(folder), folder / "evaluation"
    figures: dict[str, Figure | None] = {**draw_memory(inside, run.name)}
    if (inside / TRACE).exists():
        trace = read_trace(inside / TRACE)
        drawings = {"memory": memory, "emitted": emitted, "usage": usage, "links": links}
        figures |= {name: draw(trace, run.name) for name, draw in drawings.items()}
    figures["error_by_length"] = error_by_length(results, trained_lengths(run.config.get("task") or {}), run.name)
    return [*_save(figures, inside), *_pages(inside, run.name)]


def draw_memory(folder: Path, title: str = "") -> dict[str, Figure]:
    """Return the heat maps of what a run's folder holds, by name: `addressing`, `attention`.

    Raises:
        RunError: a file is there but can't be drawn.
    """
    drawings: dict[str, tuple[str, Callable[[Path], Figure]]] = {
        "addressing": (TRACE, lambda path: addressing(read_trace(path), title)),
        "attention": (ATTENTION, lambda path: attention(read_attention(path), title)),
    }
    return {name: draw(folder / file) for name, (file, draw) in drawings.items() if (folder / file).exists()}


def _save(figures: Mapping[str, Figure | None], folder: Path) -> list[Path]:
    """Write the figures there are; take away one that an earlier evaluation left and this one doesn't have."""
    for name, figure in figures.items():
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def _pages(folder: Path, title: str) -> list[Path]:
    pages = []
    if (folder / TRACE).exists():
        pages.append(write_steps(read_trace(folder / TRACE), folder / STEPS, title))
    if (folder / ATTENTION).exists():
        pages.append(write_attention_page(read_attention(folder / ATTENTION), folder / ATTENTION_PAGE, title))
    return pages


def _curves(groups: Sequence[Group]) -> Iterator[Picture]:
    """Yield learning curves, a picture per task and at most as many groups on it as there are colours."""
    for task, number, members in _by_task(groups):
        figure = learning_curves(members)
        if figure is not None:
            name = _slug(f"learning_curves_{task}_{number}")
            yield Picture(name, f"Learning curves: {task}", "Thin: runs. Thick: their median.", png(figure))


def _lengths(groups: Sequence[Group]) -> Iterator[Picture]:
    """Yield the first metric of each task against length, if its runs were tested at several lengths."""
    for task, number, members in _by_task(groups):
        metrics = [name for name in curve_metrics(members) if name != "loss"]
        figure = errors_by_length(members, metrics[0]) if metrics else None
        if figure is not None:
            name = _slug(f"error_by_length_{task}_{number}")
            caption = "Lines: medians over seeds. Bands: from quartile to quartile."
            yield Picture(name, f"Beyond the trained lengths: {task}", caption, png(figure))


def _by_task(groups: Sequence[Group]) -> Iterator[tuple[str, int, list[Group]]]:
    """Yield tasks, and their groups, as many at once as there are colours."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(_task(group), []).append(group)
    for task, members in tasks.items():
        for number, first in enumerate(range(0, len(members), len(COLOURS)), start=1):
            yield task, number, members[first : first + len(COLOURS)]


def _memories(groups: Sequence[Group], faults: list[Problem]) -> Iterator[Picture]:
    """Yield the heat maps of each group's first run that has any, finished ones first; note what can't be drawn."""
    for group in groups:
        for run in sorted(group.runs, key=lambda run: not run.done):
            try:
                figures = draw_memory(run.path)
            except RunError as error:
                faults.append(Problem(run.path, str(error)))
                continue
            for name, figure in figures.items():
                caption = f"{CAPTIONS[name]}, seed {run.seed}, {run.path.name}."
                yield Picture(
                    _slug(f"{name}_{group.label}"), f"{name.capitalize()}: {group.label}", caption, png(figure)
                )
            if figures:
                break


def _task(group: Group) -> str:
    target = str(group.settings.get("task._target_", "unknown task"))
    return target.rpartition(".")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
