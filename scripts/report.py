"""Table, learning curves and memory pictures of finished runs, and one HTML page of it all.

usage: python scripts/report.py PATH ... [out=runs/report]

PATH   a run folder, a folder of run folders, or a glob of them: runs/ntm_copy-*
out    where report.html and its pictures go

Runs of one configuration that differ in their seeds are one line: mean ± std over seeds. Runs that haven't finished
appear in the pictures, not in the table. Exit codes: 0 done, 1 nothing to report, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.report import make_report, write_report
from memnets.analysis.runs import find_runs
from memnets.analysis.tables import show


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        paths, values = read_arguments(words, {"out": "runs/report"})
        if not paths:
            raise UsageError("give at least one run folder, for example runs/*; --help tells more")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs, problems = find_runs(paths)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not runs:
        print("nothing to report: no readable run in " + ", ".join(paths), file=sys.stderr)
        return 1
    report = make_report(runs, problems)
    show(report.rows())
    for problem in report.unfinished():
        print(f"not in the table: {problem}", file=sys.stderr)
    print(f"\nreport: {write_report(report, Path(values['out']))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
