"""Draw what each Transformer memory remembers against what its step costs, from the tables of results/.

usage: python scripts/which_memory.py [results=results] [out=docs/which_memory.png]

results   the folder with memory_transformers.csv (scripts/record.py) and memory_costs.csv (scripts/memory_costs.py)
Exit codes: 0 drawn, 1 a table can't be read, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_arguments
from memnets.analysis.memories import decision_figure
from memnets.analysis.rows import RecordError


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        paths, values = read_arguments(words, {"results": "results", "out": "docs/which_memory.png"})
        if paths:
            raise UsageError(f"{paths[0]}: no paths are taken; --help tells more")
        print(decision_figure(Path(values["results"]), Path(values["out"])))
    except (UsageError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
