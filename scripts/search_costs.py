"""Time the exact search of a kNN memory against the number of its keys, and draw it.

usage: python scripts/search_costs.py [keys=1024,...] [threads=1] [seconds=10] [csv=results/search_costs.csv]
                                      [out=docs/search_costs.png]

512 queries of one head search keys of 64 numbers for their best 32, without gradients: the C++ kernel, and beside it
all scores by a matrix product and `torch.topk` of them. By default keys are 2^10 to 2^20.

seconds   per number of keys
csv       a table to merge the rows into: a row takes the place of the one with its sizes, threads and device
out       a figure of this run's rows

Exit codes: 0 done, 1 the CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import numbers, read_keys, run, seconds
from memnets.analysis.measured import MeasuredTable
from memnets.analysis.rows import RecordError
from memnets.analysis.searches import SearchRecord, search_figure
from memnets.benchmark.measure import provenance
from memnets.benchmark.searches import measure_search

KEYS = ",".join(str(2**power) for power in range(10, 21))
DEFAULTS = {"keys": KEYS, "threads": "1", "seconds": "10", "csv": "", "out": ""}


def main(words: list[str]) -> int:
    return run(measure, words, __doc__, (RecordError,))


def measure(words: list[str]) -> None:
    values = read_keys(words, DEFAULTS)
    sizes, counts = (numbers(name, values[name]) for name in ("keys", "threads"))
    length, table = seconds(values["seconds"]), MeasuredTable(values["csv"], SearchRecord)
    made_by, rows = provenance("cpu"), []
    for row in (measure_search(size, count, length, made_by) for count in counts for size in sizes):
        beside = f", all scores {row.reference_ms:.1f} ms ({row.ratio:.1f} times)" if row.ratio else ""
        print(f"{row.keys:>8} keys: {row.kernel_ms:.2f} ms{beside}", flush=True)
        rows.append(row)
        table.add([row])
    if values["out"]:
        print(search_figure(rows, Path(values["out"])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
