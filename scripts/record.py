"""Write results/<table>.csv from finished runs: results are records, never typed.

usage: python scripts/record.py table=NAME runs='runs/*' [metrics='test/*,solved'] [over=optim.lr] [results=results]

table     the CSV to write; a line takes the place of the line that had its experiment and metric
runs      run folders or globs, separated by commas; more may follow as plain words
metrics   names or globs of the metrics to record; without it all but those of the validation split
over      settings, separated by commas, left to chance as the seed is: one of their values is chosen with the restart
results   the folder of the CSVs

Only runs whose status is "done" count. Exit codes: 0 recorded, 1 nothing recorded, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.records import RecordError, record, refusals
from memnets.analysis.runs import find_runs


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        keys = {"table": "", "runs": "", "metrics": "", "over": "", "results": "results"}
        paths, values = read_arguments(words, keys)
        listed = {key: [word for word in values[key].split(",") if word] for key in ("runs", "metrics", "over")}
        paths += listed["runs"]
        if not values["table"].isidentifier() or not paths:
            raise UsageError("give table=NAME (letters, digits, _) and runs='runs/*'; --help tells more")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs, problems = find_runs(paths)
    for problem in [*problems, *refusals(runs)]:
        print(problem, file=sys.stderr)
    path = Path(values["results"]) / f"{values['table']}.csv"
    try:
        recorded = record(path, runs, listed["metrics"], listed["over"])
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {len(recorded)} lines of {len({line.experiment for line in recorded})} experiments recorded")
    return 0 if recorded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
