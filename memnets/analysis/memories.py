"""Which memory should I use? A table and a figure, a row and a mark per kind, from the records of results/.

A kind is a file of configs/model, `memory_transformer_delta` say; what experiments say of it stands in
`memory_transformers.csv`, under `transformer_recall model=memory_transformer_delta`, what it costs in
`memory_costs.csv`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memnets.analysis.costs import COSTS, CostRecord
from memnets.analysis.figures import COLOURS, new_figure, save_figure, styled
from memnets.analysis.measured import read_measured
from memnets.analysis.records import Record, read_records
from memnets.analysis.tables import plain, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = "memory_transformers.csv"
WITHOUT = "transformer"
PREFIX = "memory_transformer"
MARKERS = ("o", "s", "^", "D")
"""One per round of the colours."""


class Question(NamedTuple):
    """What a researcher asks of a memory, and the experiment and metric that answer."""

    title: str
    experiment: str
    metric: str


QUESTIONS = (
    Question("recall beyond the window", "transformer_recall", "test/remote_accuracy"),
    Question("sequences to solve it", "transformer_recall", "sequences_to_solve"),
    Question("newest of several values", "transformer_overwrite", "test/remote_accuracy"),
    Question("WikiText-2 perplexity", "transformer_wikitext2", "test/perplexity"),
)


def memory_tables(results: Path) -> dict[str, Path]:
    """Return the tables made of several files, by name, if there is anything to make them of."""
    return {"which_memory": results / RESULTS} if (results / RESULTS).exists() else {}


def render_memories(results: Path) -> str:
    """Return the table in Markdown: a row per kind, what was recorded of it, and what its step costs."""
    records, costs = read_records(results / RESULTS), read_measured(results / COSTS, CostRecord)
    asked = [each for each in QUESTIONS if any(_answers(record, each) for record in records)]
    names = ["memory", *(each.title for each in asked), "step, times the plain one's", "memory of a step, MB"]
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    for kind in kinds(records):
        cells = [_answer(records, kind, each) for each in asked]
        lines.append("| " + " | ".join([short(kind), *cells, *_cost(costs, kind)]) + " |")
    return "\n".join(lines)


def kinds(records: Sequence[Record]) -> list[str]:
    """Return the models that records are of, without a memory first."""
    found = dict.fromkeys(kind for record in records if (kind := kind_of(record.experiment)))
    return sorted(found, key=lambda kind: kind != WITHOUT)


def kind_of(label: str) -> str:
    """Return the model an experiment's label names; empty if none."""
    return next((word.removeprefix("model=") for word in label.split() if word.startswith("model=")), "")


def short(kind: str) -> str:
    """Return a kind in words: `segment cache`; the file that is named after none holds the kNN memory."""
    name = kind.removeprefix(PREFIX).strip("_").replace("_", " ")
    return "none" if kind == WITHOUT else name or "kNN"


@styled
def decision_figure(results: Path, path: Path) -> Path:
    """Write a figure of what is remembered against what a step costs, a mark per kind: the upper left is where to look.

    Raises:
        RecordError: the tables can't be read.
    """
    records, costs = read_records(results / RESULTS), read_measured(results / COSTS, CostRecord)
    asked = [each for each in QUESTIONS if each.metric.endswith("accuracy")]
    asked = [each for each in asked if any(_answers(record, each) for record in records)]
    figure = new_figure(4.2 * max(len(asked), 1) + 1.8, 4.0)
    panels = figure.subplots(1, max(len(asked), 1), squeeze=False, sharex=True)[0]
    for axis, question in zip(panels, asked, strict=False):
        _draw(axis, question, records, costs)
    marks = {label: mark for axis in panels for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if marks:
        figure.legend(marks.values(), marks.keys(), loc="outside right upper")
    return save_figure(figure, path)


def _draw(axis: Axes, question: Question, records: Sequence[Record], costs: Sequence[CostRecord]) -> None:
    axis.set_title(question.title)
    axis.set_xlabel("time of a training step, times the one without a memory")
    axis.set_ylabel("accuracy")
    for number, kind in enumerate(kinds(records)):
        found = next((each for each in records if kind_of(each.experiment) == kind and _answers(each, question)), None)
        ratio = 1.0 if kind == WITHOUT else _ratio(costs, kind)
        if found is None or ratio is None:
            continue
        axis.errorbar(
            ratio, found.mean, yerr=found.std or 0.0, capsize=3, linestyle="", label=short(kind),
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
        )  # fmt: skip
    axis.set_ylim(-0.05, 1.05)
    axis.margins(x=0.1)
    axis.grid(True)


def _answers(record: Record, question: Question) -> bool:
    return record.experiment.split()[0] == question.experiment and record.metric == question.metric


def _answer(records: Sequence[Record], kind: str, question: Question) -> str:
    for record in records:
        if kind_of(record.experiment) == kind and _answers(record, question):
            return spread(record.mean, record.std)
    return ""


def _of(costs: Sequence[CostRecord], kind: str) -> list[CostRecord]:
    return [cost for cost in costs if f"model={kind}" in cost.model.split() and cost.state == "carried"]


def _ratio(costs: Sequence[CostRecord], kind: str) -> float | None:
    """The least, where a kind was measured at several sizes."""
    found = [cost.ratio for cost in _of(costs, kind)]
    return min(found) if found else None


def _cost(costs: Sequence[CostRecord], kind: str) -> tuple[str, str]:
    """Ratio and peak with windows and memories full, by name where a kind was measured at several sizes."""
    if kind == WITHOUT:
        peaks = [cost.plain_peak_mb for cost in costs if cost.state == "carried"]
        return "1", plain(round(statistics.median(peaks))) if peaks else ""
    found = _of(costs, kind)
    sizes = [f" ({cost.memory})" if len(found) > 1 else "" for cost in found]
    ratios = ", ".join(f"{cost.ratio:.2f}{size}" for cost, size in zip(found, sizes, strict=True))
    return ratios, ", ".join(f"{cost.peak_mb:.0f}{size}" for cost, size in zip(found, sizes, strict=True))
