"""Time memories of 100,000 and 70,000 entries: searched by vectors and by words, and written to.

usage: python scripts/retrieval_speed.py [calls=100] [threads=1] [csv=results/retrieval_speed.csv]

Exact dense search of 384 numbers is timed in turns with FAISS's flat index; `write, ...` writes one entry and asks for
it. Texts are random words. A table in csv gets the rows: a row takes the place of the one of its kind.

Exit codes: 0 done, 1 the CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import sys

from memnets.analysis.arguments import read_keys, run, whole_number
from memnets.analysis.measured import MeasuredTable
from memnets.analysis.retrieval_speeds import SpeedRecord, render_speeds
from memnets.analysis.rows import RecordError
from memnets.benchmark.measure import provenance
from memnets.benchmark.retrieval import measure_speeds


def main(words: list[str]) -> int:
    return run(measure, words, __doc__, (RecordError,))


def measure(words: list[str]) -> None:
    values = read_keys(words, {"calls": "100", "threads": "1", "csv": ""})
    calls, threads = (whole_number(name, values[name]) for name in ("calls", "threads"))
    table = MeasuredTable(values["csv"], SpeedRecord)
    rows = list(measure_speeds(calls, threads, provenance("cpu")))
    table.add(rows)
    print(render_speeds(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
