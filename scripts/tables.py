"""Write the tables of results/ into README.md and docs/*.md, between their markers.

usage: python scripts/tables.py [--check] [root=.]

A document holds a table where these two lines stand; what is between them is replaced:
    <!-- table: NAME -->
    <!-- end table -->
`<!-- table: NAME CASE -->` takes the lines of one case or experiment.
--check writes nothing, shows how the documents differ from results/NAME.csv, and exits with 1 if they do.
Exit codes: 0 all equal or written, 1 they differ or can't be written, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_keys
from memnets.analysis.markdown import MarkerError, difference, documents, updated
from memnets.analysis.records import RecordError
from memnets.files import write_atomic


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        values = read_keys(words, {"root": str(Path(__file__).resolve().parent.parent)}, ["--check"])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    root = Path(values["root"])
    try:
        changes = {path: updated(path, root / "results") for path in documents(root)}
    except (MarkerError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    differing = {path: text for path, text in changes.items() if difference(path, text)}
    for path, text in differing.items():
        if values["--check"]:
            print(difference(path, text))
        else:
            write_atomic(path, text.encode())
            print(f"{path}: written")
    if differing and values["--check"]:
        print("these documents differ from results/: run python scripts/tables.py", file=sys.stderr)
    return 1 if differing and values["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
