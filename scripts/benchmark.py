"""Time kernels against their reference: `python scripts/benchmark.py case=ntm_step batch=1,16,64 threads=1`.

Keys: `case` (ntm_step), `batch` and `threads` (lists), `seconds` (per row). Ends with one JSON line per row.
"""

import json
import sys

from memnets.benchmark import CASES, measure
from memnets.ops.backend import BackendError

DEFAULTS = {"case": "ntm_step", "batch": "1,16,64", "threads": "1", "seconds": "6"}


def main(arguments: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in arguments)
    if unknown := given.keys() - DEFAULTS.keys():
        return refuse(f"no such key: {', '.join(sorted(unknown))}; there are {', '.join(DEFAULTS)}")
    chosen = DEFAULTS | given
    if chosen["case"] not in CASES:
        return refuse(f"case={chosen['case']}: there are {', '.join(CASES)}")
    try:
        batches, threads = ([int(word) for word in chosen[key].split(",")] for key in ("batch", "threads"))
        seconds = float(chosen["seconds"])
    except ValueError as error:
        return refuse(f"batch and threads are lists of whole numbers, seconds is a number: {error}")
    try:
        rows = [measure(chosen["case"], batch, count, seconds) for count in threads for batch in batches]
    except BackendError as error:
        return refuse(str(error))
    for row in rows:
        print(json.dumps(row))
    return 0


def refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
