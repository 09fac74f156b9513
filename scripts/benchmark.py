"""Time kernels against their references, forward and backward, in turns in one run; and count the bytes they move.

usage: python scripts/benchmark.py [case=ntm_step,...] [batch=1,16,64] [time=41,...] [slots=128,...] [threads=1]
                                   [seconds=6] [compile=true] [device=cpu] [csv=results/kernels.csv]

case      ops of memnets.ops.cases, and a training step each: ntm_step, dnc_step, sam_step, entity_step, memn2n_step,
          memn2n_ten_step (ten networks at once); without it all of them
batch, time, slots   lists of sizes, in the place of each case's own
threads   a list; of the CPU
seconds   per row; a search of very many scores is timed without its reference
compile   true adds torch.compile: minutes for training steps
device    cpu or cuda; without it a GPU if there is one
csv       a table to merge the rows into: a row takes the place of the one with its case, sizes, threads and device

Without `case` a table is printed; with it one JSON line per row, and the table goes to stderr.
Exit codes: 0 done, 1 the CSV can't be read, 2 not understood.
"""

from __future__ import annotations

import json
import sys

from memnets.analysis.arguments import run
from memnets.analysis.kernels import KernelRecord
from memnets.analysis.measured import MeasuredTable, columns
from memnets.analysis.rows import RecordError
from memnets.benchmark.cases import sequences
from memnets.benchmark.choice import read_choice
from memnets.benchmark.measure import measure, provenance
from memnets.benchmark.table import show

FIRST = ("case", "batch", "threads")
"""What a JSON line begins with."""


def main(words: list[str]) -> int:
    return run(benchmark, words, __doc__, (RecordError,))


def benchmark(words: list[str]) -> None:
    choice = read_choice(words)
    table = MeasuredTable(choice.csv, KernelRecord)
    made_by, rows = provenance(choice.device), []
    for case, sizes, threads in choice.problems():
        print(f"{case}: batch {sizes.batch}, {sizes.slots} slots", file=sys.stderr, flush=True)
        rows.append(measure(case, sizes, threads, choice.seconds, choice.device, choice.compiles, made_by))
        if count := sequences(case, sizes):
            print(f"  sequences per second: {_rates(count, rows[-1])}", file=sys.stderr, flush=True)
        table.add(rows[-1:])
    show(rows, stderr=choice.named)
    if choice.named:
        for row in rows:
            print(json.dumps({name: getattr(row, name) for name in dict.fromkeys(FIRST + columns(KernelRecord))}))


def _rates(count: int, row: KernelRecord) -> str:
    times = {row.kernel: row.kernel_ms, "reference": row.reference_ms}
    return ", ".join(f"{name} {1e3 * count / time:,.0f}" for name, time in times.items() if time)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
