"""Evaluate a checkpoint on its task: `python scripts/evaluate.py checkpoint=runs/NAME lengths=20,40,80`.

  checkpoint=PATH   a run folder (its newest checkpoint) or one checkpoint folder
  split=test        train, validation or test
  lengths=20,40     evaluate at these exact lengths instead
  key=value         change the configuration, for example task.eval_sequences=2000 or task/selection=top_3

Prints a table of the answers, below it what its first set is compared with, as far as the task knows: `chance`, which
is guessing, and `oracle`, the task's own solution by hand on the same data (of language modelling: bigrams counted in
the training text, the least to beat). Two more tables, where there is anything to tell, are about the stages before
the answer: `memory`, how much of it is in use and the entropy of the weights it was read with, and `retrieval`, how
well the entry that answers was found among all. Below a number stands its 95 % interval, from and to: percentiles over
1,000 samples of as many examples (questions, sequences, segments of a text), drawn with replacement. Adds all to the
run folder's evaluations.jsonl.

Writes pictures into its evaluation/: where the heads were, memory content, what the heads emitted, usage and links of a
DNC, the error against length, and steps.html, a page to step through one sequence in a browser. Of a Memory Network
and of a reader of an external memory: attention.png and attention.html, what each hop looked at on the way to a few
answers, beside the facts that truly support them; of an NTM, a DNC or a SAM on bAbI, which slots it read last.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from memnets.analysis.report import draw_evaluation
from memnets.analysis.runs import RunError
from memnets.check import ConfigError
from memnets.evaluate import Evaluated, Evaluation, evaluate_checkpoint
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError
from memnets.training.examples import Measured
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
        evaluated = evaluate_checkpoint(wanted)
        show(evaluated)
        print(*draw_evaluation(find_checkpoint(wanted.path).parents[1], evaluated.metrics), sep="\n")
    except (ConfigError, CheckpointError, DataError, RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def lengths(text: str) -> list[int]:
    if not all(word.isdigit() for word in text.split(",") if text):
        raise ValueError(f"lengths={text}: expected whole numbers with commas between, as in lengths=20,40")
    return [int(word) for word in text.split(",") if word]


def show(evaluated: Evaluated) -> None:
    for stage in dict.fromkeys(stage for stages in evaluated.stages.values() for stage in stages):
        rows = {name: stages[stage] for name, stages in evaluated.stages.items() if stage in stages}
        compared = evaluated.references if stage == "answers" else {}
        references = {name: {k: Measured(v) for k, v in metrics.items()} for name, metrics in compared.items()}
        Console().print(table(stage, rows, references))


def table(stage: str, *sections: Mapping[str, Mapping[str, Measured]]) -> Table:
    names = list(next(iter(sections[0].values())))
    shown = Table("set", *names, title=stage, title_justify="left")
    for rows in sections:
        for name, metrics in rows.items():
            values, lows, highs = zip(*(metrics.get(key, (None,) * 3) for key in names), strict=True)
            shown.add_row(name, *(cell(value) or "–" for value in values))
            if any(low is not None for low in lows):
                shown.add_row("  from", *(cell(low) for low in lows), style="dim")
                shown.add_row("  to", *(cell(high) for high in highs), style="dim")
        shown.add_section()
    return shown


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
