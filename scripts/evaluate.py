"""Evaluate a checkpoint on its task: `python scripts/evaluate.py checkpoint=runs/NAME lengths=20,40,80`.

  checkpoint=PATH   a run folder (its newest checkpoint) or one checkpoint folder
  split=test        train, validation or test
  lengths=20,40     evaluate at these exact lengths instead
  key=value         change the configuration, for example task.eval_sequences=2000 or task/selection=top_3

Prints a table, below it what its first set is compared with, as far as the task knows: `chance`, which is guessing, and
`oracle`, the task's own solution by hand on the same data (of language modelling: bigrams counted in the training
text, the least to beat). Adds both to the run folder's evaluations.jsonl.

Writes pictures into its evaluation/: where the heads were, memory content, what the heads emitted, usage and links of a
DNC, the error against length, and steps.html, a page to step through one sequence in a browser. Of a Memory Network:
attention.png and attention.html, what each hop looked at on the way to a few answers, beside the facts that truly
support them.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from memnets.analysis.report import draw_evaluation
from memnets.analysis.runs import RunError
from memnets.check import ConfigError
from memnets.evaluate import Evaluation, evaluate_checkpoint
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError
from memnets.training.run import find_checkpoint


def main(arguments: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in arguments)
    if not arguments or {"-h", "--help"} & set(arguments) or "checkpoint" not in given:
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    own = ("checkpoint=", "split=", "lengths=")
    try:
        wanted = Evaluation(
            Path(given["checkpoint"]),
            given.get("split", "test"),
            lengths(given.get("lengths", "")),
            [word for word in arguments if not word.startswith(own)],
        )
        results, references = evaluate_checkpoint(wanted)
        show(results, references)
        print(*draw_evaluation(find_checkpoint(wanted.path).parents[1], results), sep="\n")
    except (ConfigError, CheckpointError, DataError, RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def lengths(text: str) -> list[int]:
    if not all(word.isdigit() for word in text.split(",") if text):
        raise ValueError(f"lengths={text}: expected whole numbers with commas between, as in lengths=20,40")
    return [int(word) for word in text.split(",") if word]


def show(results: dict[str, dict[str, float]], references: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(results.values())))
    table = Table("set", *names)
    for rows in (results, references):
        for name, metrics in rows.items():
            table.add_row(name, *(f"{metrics[key]:.4g}" if key in metrics else "–" for key in names))
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
