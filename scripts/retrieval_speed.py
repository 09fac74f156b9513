"""Time memories of 100,000 and 70,000 entries: searched by vectors and by words, and written to.

usage: python scripts/retrieval_speed.py [calls=100] [threads=1] [csv=results/retrieval_speed.csv]

Exact dense search of 384 numbers is timed in turns with FAISS's flat index; `write, ...` writes one entry and asks for
it. Texts are random words. A table in csv gets the rows: a row takes the place of the one of its kind.

Exit codes: 0 done, 1 the CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.measured import add_measured, read_measured
from memnets.analysis.retrieval_speeds import SpeedRecord, render_speeds
from memnets.analysis.rows import RecordError
from memnets.benchmark.choice import numbers
from memnets.benchmark.measure import provenance
from memnets.benchmark.retrieval import measure_speeds


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        paths, values = read_arguments(words, {"calls": "100", "threads": "1", "csv": ""})
        if paths:
            raise UsageError(f"{paths[0]}: no paths are taken; --help tells more")
        (calls,), (threads,) = numbers("calls", values["calls"]), numbers("threads", values["threads"])
        table = Path(values["csv"]) if values["csv"] else None
        if table:
            read_measured(table, SpeedRecord)  # refused now rather than after minutes
    except (UsageError, RecordError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RecordError) else 2
    rows = list(measure_speeds(calls, threads, provenance("cpu")))
    if table:
        add_measured(table, SpeedRecord, rows)
    print(render_speeds(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
