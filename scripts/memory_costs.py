"""Time a Transformer's training step with each kind of memory against the same decoder without one, in turns.

usage: python scripts/memory_costs.py [memory='knn 8192,delta'] [state=fresh,carried] [threads=1] [seconds=30]
                                      [csv=results/memory_costs.csv]

A step is forward and backward of 4 sequences of 512 tokens: d_model 256, 4 layers of 4 heads, window 512. `fresh`
sequences begin with the step; `carried` ones go on, their windows and memories full. Memory is the peak of a process
that takes two such steps, beyond what it held before.

memory    names of memnets.benchmark.memories.KINDS; without it all
seconds   per pair
csv       a table to merge the rows into: a row takes the place of the one with its memory, state, threads and device

Exit codes: 0 done, 1 the CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import itertools
import sys

from memnets.analysis.arguments import numbers, one_of, read_keys, run, seconds
from memnets.analysis.costs import CostRecord, render_costs
from memnets.analysis.measured import MeasuredTable
from memnets.analysis.rows import RecordError
from memnets.benchmark.measure import provenance
from memnets.benchmark.memories import KINDS, measure_cost

DEFAULTS = {"memory": ",".join(KINDS), "state": "fresh,carried", "threads": "1", "seconds": "30", "csv": ""}


def main(words: list[str]) -> int:
    return run(measure, words, __doc__, (RecordError,))


def measure(words: list[str]) -> None:
    values = read_keys(words, DEFAULTS)
    names = [one_of("memory", name, list(KINDS)) for name in values["memory"].split(",")]
    states = [one_of("state", state, ("fresh", "carried")) for state in values["state"].split(",")]
    counts, each = numbers("threads", values["threads"]), seconds(values["seconds"])
    table = MeasuredTable(values["csv"], CostRecord)
    made_by, rows = provenance("cpu"), []
    for count, name, state in itertools.product(counts, names, states):
        print(f"{name}, {state}", file=sys.stderr, flush=True)
        rows.append(measure_cost(name, state, count, each, made_by))
        table.add(rows[-1:])
    print(render_costs(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
