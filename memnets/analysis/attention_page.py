"""One self-contained HTML page of what a model looked at in its memory: a table of shaded weights per question."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from memnets.analysis.attention import Attention
from memnets.analysis.page import CSS
from memnets.files import write_atomic

ATTENTION_PAGE = "attention.html"
STYLE = """
table { width: auto } caption { text-align: left }
td.weight, th.weight { width: 4.4rem; text-align: right; padding: .34rem .5rem; font-variant-numeric: tabular-nums }
td.strong { color: #fff } td.faint { color: var(--soft) }
tr.fact td:nth-child(2) { font-weight: 600 } td.mark { color: var(--mark) }
.answer { font-weight: 600 } .wrong { color: #c4320a }
@media (prefers-color-scheme: dark) { .wrong { color: #ff9466 } }
"""


def write_attention_page(questions: Sequence[Attention], path: Path, title: str) -> Path:
    """Write the page and return its path."""
    write_atomic(path, attention_page(questions, title))
    return path


def attention_page(questions: Sequence[Attention], title: str) -> str:
    """Return the whole page."""
    words = "Shaded: the weight of each thing read in each hop. ● marks the facts that truly support the answer."
    body = "".join(map(_section, questions))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: attention</title><style>{CSS}{STYLE}</style></head>"
        f'<body><header><h1>{escape(title)}: attention</h1><p class="soft">{words}</p></header>{body}</body></html>\n'
    )


def _section(shown: Attention) -> str:
    kind = "" if shown.answer == shown.prediction else " wrong"
    told = f'answered <span class="answer{kind}">{escape(shown.prediction)}</span> ({escape(shown.verdict)})'
    if shown.supports:
        told += f"; some hop looks most at {len(shown.found)} of {len(shown.supports)} supporting facts"
    hops = "".join(f'<th class="weight" scope="col">hop {hop + 1}</th>' for hop in range(len(shown.weights)))
    rows = "".join(_row(shown, row) for row in range(len(shown.story)))
    head = f'<thead><tr><th></th><th scope="col">read</th>{hops}</tr></thead>'
    table = f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    return f"<section><h2>{escape(shown.query)}?</h2><p>{told}</p>{table}</section>"


def _row(shown: Attention, row: int) -> str:
    fact = row in (shown.supports or ())
    begin = '<tr class="fact"><td class="mark" title="supporting fact">●</td>' if fact else "<tr><td></td>"
    weights = "".join(map(_cell, shown.weights[:, row].tolist()))
    return f"{begin}<td>{escape(shown.story[row])}</td>{weights}</tr>"


def _cell(weight: float) -> str:
    """Return a cell as blue as its weight; weights of a linear phase may lie beyond 0 and 1, shades don't."""
    shade = min(1.0, max(0.0, weight))
    kind = " strong" if shade > 0.75 else " faint" if shade < 0.01 else ""
    return f'<td class="weight{kind}" style="background: rgba(0, 104, 168, {shade:.2f})">{weight:.2f}</td>'
