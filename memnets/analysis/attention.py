"""What a model looked at on its way to its answers: hops over what it read, beside the true supporting facts.

A run leaves `attention.json` in its folder: a list of test questions, each with `story`, `query`, `answer`,
`prediction`, `supports` (numbers from 0, or null) and `attention` `[hops][sentences]`. A story is what there was to
read: sentences of a Memory Network, entries that were retrieved for a reader, slots of an NTM, a DNC or a SAM.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memnets.analysis.figures import new_figure, styled
from memnets.analysis.heatmaps import bare, colour_bar
from memnets.analysis.runs import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTENTION = "attention.json"
ATTENTION_MAP = "Blues"
MOST_SENTENCES = 12
"""So many of a long story are drawn; a page shows all."""


@dataclass(frozen=True)
class Attention:
    """One question.

    Attributes:
        story: its sentences, oldest first.
        query: the question.
        answer: the true answer.
        prediction: the model's answer.
        weights: `[hops sentences]`.
        supports: which sentences are the true supporting facts, numbered from 0; None if nobody says.
    """

    story: tuple[str, ...]
    query: str
    answer: str
    prediction: str
    weights: np.ndarray
    supports: tuple[int, ...] | None = None

    @property
    def verdict(self) -> str:
        """Whether the prediction is right, in words."""
        return "right" if self.answer == self.prediction else f"wrong: it is {self.answer}"

    @property
    def found(self) -> set[int]:
        """True supporting facts to which some hop gives its largest weight."""
        return set(self.weights.argmax(axis=1).tolist()) & set(self.supports or ())


def read_attention(path: Path) -> list[Attention]:
    """Return the questions in a file.

    Raises:
        RunError: the file is corrupt, an entry is missing, or there isn't one weight per sentence.
    """
    try:
        return [_question(path, entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path.name} holds no questions ({type(error).__name__}: {error}); evaluate the run to write it anew"
        raise RunError(message) from error


def _question(path: Path, content: dict[str, Any]) -> Attention:
    weights = np.array(content["attention"], dtype=float)
    query, answer, prediction = (str(content[name]) for name in ("query", "answer", "prediction"))
    story, supports = tuple(map(str, content["story"])), content["supports"]
    if weights.ndim != 2 or weights.shape[1] != len(story) or not weights.size:
        raise RunError(
            f"{path.name}: weights {list(weights.shape)} for {len(story)} sentences; expected [hops, sentences]"
        )
    if supports is not None and not all(0 <= number < len(story) for number in supports):
        raise RunError(f"{path.name}: supports {supports} for {len(story)} sentences; expected numbers from 0")
    return Attention(story, query, answer, prediction, weights, None if supports is None else tuple(supports))


@styled
def attention(questions: Sequence[Attention], title: str = "") -> Figure:
    """Return the weights of every hop on every sentence, a panel per question; supporting facts are marked.

    Of a long story the sentences with most weight are drawn, in the order they were told.
    """
    drawn = [weightiest(shown) for shown in questions]
    columns = min(2, len(questions))
    lines = [max(map(len, drawn[first : first + columns])) for first in range(0, len(drawn), columns)]
    heights = [0.9 + 0.27 * count for count in lines]
    hops = max(shown.weights.shape[0] for shown in questions)
    figure = new_figure((4.2 + 0.62 * hops) * columns, sum(heights) + 0.4)
    panels = list(figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights).flat)
    for place, (axes, shown, rows) in enumerate(zip(panels, questions, drawn, strict=False)):
        image = _draw(axes, shown, rows)
        axes.set_ylim(lines[place // columns], 0)
    for axes in panels[len(questions) :]:
        axes.set_axis_off()
    colour_bar(image, panels, "attention")
    if title:
        figure.suptitle(title, fontsize=12, color="#222222")
    return figure


def weightiest(shown: Attention, most: int = MOST_SENTENCES) -> list[int]:
    """Return the sentences worth drawing, in order: supporting facts first, then by their largest weight in any hop."""
    largest = shown.weights.max(axis=0)
    supports = set(shown.supports or ())
    order = sorted(range(len(shown.story)), key=lambda row: (row not in supports, -largest[row]))
    return sorted(order[:most])


def _draw(axes: Axes, shown: Attention, rows: list[int]) -> Any:
    weights = shown.weights[:, rows]
    image = axes.pcolormesh(weights.T, cmap=ATTENTION_MAP, vmin=0, vmax=1, edgecolors="#DDDDDD", linewidth=0.6)
    axes.set_xticks(np.arange(len(weights)) + 0.5, [f"hop {hop + 1}" for hop in range(len(weights))])
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(len(rows)) + 0.5, [_label(shown, row) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row in (shown.supports or ()) else "normal")
    bare(axes)
    for hop, place in np.argwhere(weights > 0.1):
        value = weights[hop, place]
        colour = "white" if value > 0.6 else "black"
        axes.text(hop + 0.5, place + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    left_out = len(shown.story) - len(rows)
    note = f"\n{left_out} more of less weight not shown" if left_out else ""
    axes.set_title(f"{_end(shown.query)}?\n{shown.prediction} ({shown.verdict}){note}", loc="right")
    return image


def _end(text: str, most: int = 50) -> str:
    """Return the last words: of a story read as one sequence, those that ask."""
    return textwrap.shorten(text[::-1], most, placeholder=" …")[::-1]


def _label(shown: Attention, row: int) -> str:
    mark = "● " if row in (shown.supports or ()) else ""
    return mark + textwrap.shorten(shown.story[row], 60, placeholder=" …")
