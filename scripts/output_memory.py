"""What memories behind its head add to a language model: `python scripts/output_memory.py checkpoint=runs/NAME`.

  checkpoint=PATH   a run folder (the checkpoint that was tested) or one checkpoint folder
  kind=both         cache: the text's own last words (arXiv:1612.04426); knn_lm: the training text's states that were
                    like the present one (arXiv:1911.00172); both: each, and the two together
  size=2000         words the cache holds
  k=64              neighbours in the datastore
  entries=null      build the datastore from so many tokens of the training text; null: all
  probes=null       search exactly; probes=32: FAISS sorts the datastore into cells, a step looks into the 32 nearest
  key=value         change the configuration, for example task.data_root=PATH or task.eval_streams=8

Prints perplexities: strength (* the least or largest tried) and share of each memory are tuned on validation, then the
test is measured once. Adds them to the run's evaluations.jsonl, and keeps the datastore in the run's datastore/. Exact
search of two million entries takes a CPU core long for each text: entries=100000 is a first try.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from memnets.analysis.arguments import UsageError, number
from memnets.check import ConfigError
from memnets.memory.output.datastore import DatastoreError
from memnets.output_memory import Result, Wanted, measure
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError

SIZES = {"size": 2000, "k": 64, "entries": None, "probes": None}
OWN = ("checkpoint", "kind", *SIZES)
NAMES = {"cache": "cache", "knn_lm": "kNN-LM"}


def main(arguments: list[str]) -> int:
    given = {key: value for key, _, value in (word.partition("=") for word in arguments) if key in OWN}
    if {"-h", "--help"} & set(arguments) or "checkpoint" not in given:
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        size, k, entries, probes = (number(given, key, int, default) for key, default in SIZES.items())
        others = [word for word in arguments if word.partition("=")[0] not in OWN]
        show(measure(Wanted(Path(given["checkpoint"]), given.get("kind", "both"), size, k, entries, probes, others)))
    except (ConfigError, CheckpointError, DataError, DatastoreError, UsageError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def show(result: Result) -> None:
    table = Table("", "validation", "test", "gain", "share", "strength")
    for row in result.rows:
        name = " + ".join(["model", *(NAMES[name] for name in row.memories)])
        shares = ", ".join(f"{one.share:g}" for one in row.memories.values())
        strengths = ", ".join(f"{one.strength:.3g}{'*' * one.at_edge}" for one in row.memories.values())
        gain = f"{row.test / result.rows[0].test - 1:+.1%}"
        table.add_row(name, f"{row.validation:.2f}", f"{row.test:.2f}", gain, shares, strengths)
    Console().print(table)
    if result.search_recall < 1:
        print(f"of nearest entries {result.search_recall:.1%} were found (first segment of validation)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
