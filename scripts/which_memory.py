"""Draw what each Transformer memory remembers against what its step costs, from the tables of results/.

usage: python scripts/which_memory.py [results=results] [out=docs/which_memory.png]

results   the folder with memory_transformers.csv (scripts/record.py) and memory_costs.csv (scripts/memory_costs.py)
Exit codes: 0 drawn, 1 a table can't be read, 2 not understood.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memnets.analysis.arguments import read_keys, run
from memnets.analysis.memories import decision_figure
from memnets.analysis.rows import RecordError


def main(words: list[str]) -> int:
    return run(draw, words, __doc__, (RecordError,))


def draw(words: list[str]) -> None:
    values = read_keys(words, {"results": "results", "out": "docs/which_memory.png"})
    print(decision_figure(Path(values["results"]), Path(values["out"])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
