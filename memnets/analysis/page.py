"""One self-contained HTML page about a set of runs: nothing is fetched, pictures stand in the page itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from memnets.analysis.figures import RESOLUTION
from memnets.analysis.groups import Group, differences
from memnets.analysis.records import commit, device
from memnets.analysis.runs import Problem, Run
from memnets.analysis.tables import plain

CSS = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --line: #e3e6eb; --page: #fff;
  --card: #f7f8fa; --mark: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #98a2b3; --line: #31363f; --page: #14171c; --card: #1d2128; --mark: #6db9e8 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem }
p { margin: .3rem 0; max-width: 46rem }
.soft, figcaption { color: var(--soft); font-size: .88rem }
nav { margin-top: .8rem }
nav a { color: var(--mark); text-decoration: none; margin-right: 1.1rem; font-size: .92rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; width: 100% }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap }
th, td { padding: .34rem .9rem .34rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: .84rem }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem;
  overflow-x: auto; margin: .4rem 0 }
figure { margin: 1.2rem 0 }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem; display: block }
figcaption { margin-top: .4rem }
details { margin: .8rem 0 }
summary { cursor: pointer; color: var(--mark); font-size: .92rem }
ul { padding-left: 1.2rem; font-size: .88rem }
li { margin: .25rem 0; overflow-wrap: anywhere }
"""


REFERENCES = {
    "chance": "Chance: what guessing gets.",
    "oracle": "Oracle: what the task's own solution by hand gets on the same data; of language modelling, bigrams.",
}


class Picture(NamedTuple):
    """A PNG's content, its file name without ending, and the words around it."""

    name: str
    title: str
    caption: str
    content: bytes


def page(
    groups: Sequence[Group], rows: Sequence[Sequence[str]], pictures: Sequence[Picture], problems: Sequence[Problem]
) -> str:
    """Return the whole page; `rows` is the table of results, its header first."""
    sections = {
        "Results": _results(rows),
        "Pictures": "".join(map(_figure, pictures)),
        "Configuration": _configuration(groups),
        "Commands": "".join(map(_command, groups)),
        "Runs": _runs(groups),
        "Left out": _problems(problems),
    }
    shown = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown)
    body = "".join(f'<section id="{_anchor(title)}"><h2>{title}</h2>{text}</section>' for title, text in shown.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>memnets report</title>'
        f"<style>{CSS}</style></head><body><header><h1>memnets report</h1>"
        f'<p class="soft">{escape(_summary(groups))}</p><nav>{links}</nav></header>{body}</body></html>\n'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int) -> str:
    """Return an HTML table of escaped text, right-aligned from column `numbers_from` on."""

    def line(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="number"' if column >= numbers_from else "" for column in range(len(row))]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def _summary(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    done = sum(run.done for run in runs)
    commits = ", ".join(dict.fromkeys(map(commit, runs)))
    last = max((str(run.status.get("ended") or "")[:10] for run in runs), default="")
    counts = f"{_counted(len(groups), 'experiment')}, {_counted(len(runs), 'run')} ({done} finished)"
    return f"{counts}. Commit {commits}." + (f" Last run ended {last}." if last else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _results(rows: Sequence[Sequence[str]]) -> str:
    """Return the table, each experiment's name given once."""
    header, *body = rows
    if not body:
        return "<p>No run has finished yet.</p>"
    repeated = [False, *(row[0] == above[0] for above, row in pairwise(body))]
    named = [("", *row[1:]) if again else row for again, row in zip(repeated, body, strict=True)]
    note = "Mean ± sample standard deviation over the seeds of finished runs; best: the best seed."
    known = [REFERENCES[name] for name in header if name in REFERENCES]
    note = " ".join([note, *known])
    return f'<p class="soft">{note}</p>{table(header, named, 2)}'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    width = int.from_bytes(picture.content[16:20], "big") * 96 // RESOLUTION  # the PNG header's, in CSS pixels
    image = f'<img width="{width}" alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'
    words = f"<b>{escape(picture.title)}.</b> {escape(picture.caption)}"
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _configuration(groups: Sequence[Group]) -> str:
    """Return what differs between the groups as a table, and what doesn't folded away."""
    different = differences(groups)
    header = ["setting", *(group.label for group in groups)]
    rows = [[key, *map(_value, values)] for key, values in different.items()]
    common = {key: value for key, value in groups[0].settings.items() if key not in different}
    shared = table(["setting", "value"], [[key, _value(value)] for key, value in common.items()], 2)
    fold = f"<details><summary>{len(common)} settings that are the same for all</summary>{shared}</details>"
    return (table(header, rows, len(header)) if rows else "") + fold


def _value(value: Any) -> str:
    return "–" if value is None else str(value)


def _command(group: Group) -> str:
    made = ", ".join(dict.fromkeys(f"{commit(run)} on {device(run)}" for run in group.runs))
    name = f'<b>{escape(group.label)}</b> <span class="soft">{escape(made)}</span>'
    return f"<p>{name}</p><pre>{escape(group.command)}</pre>"


def _runs(groups: Sequence[Group]) -> str:
    header = ("run", "seed", "status", "steps", "sequences", "solved after", "seconds", "parameters", "commit")
    rows = [_run(run) for group in groups for run in group.runs]
    return table(header, rows, len(header))


def _run(run: Run) -> tuple[str, ...]:
    keys = ("step", "sequences", "solved_at_sequences", "seconds", "parameters")
    numbers = [plain(value) if (value := run.status.get(key)) is not None else "–" for key in keys]
    return run.path.name, str(run.seed), str(run.status.get("status", "unknown")), *numbers, commit(run)


def _problems(problems: Sequence[Problem]) -> str:
    items = "".join(f"<li><code>{escape(str(path))}</code>: {escape(message)}</li>" for path, message in problems)
    return f"<ul>{items}</ul>" if items else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
