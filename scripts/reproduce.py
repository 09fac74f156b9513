"""Train, record and draw everything behind one table of results; started again it goes on where it was.

usage: python scripts/reproduce.py set=NAME [jobs=1] [runs=runs/NAME] [with=task/encoder=minilm] [--quick] [--list]

set      the table results/NAME.csv; its runs are the sweeps NAME.yaml and NAME_*.yaml of configs/sweep, those there are
jobs     runs side by side
runs     where run folders and the report go
with     changes of the configuration for every run, with spaces between
--quick  one seed and a few hundred steps of each experiment, of bAbI's tasks 1, 2 and 4; recorded beside the runs
         and not in results/: does it run?
--list   print the commands and do nothing

Exit codes: 0 all recorded, 2 not understood, otherwise that of the sweep that failed; what had finished is recorded.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from memnets.analysis.arguments import UsageError, read_keys, whole_number
from memnets.analysis.output_memories import with_memories
from memnets.analysis.records import RecordError, record
from memnets.analysis.report import make_report, write_report
from memnets.analysis.runs import Run, find_runs
from memnets.config import compose
from memnets.training.run import INTERRUPTED

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("test", "length_*", "repeats_*", "gap_*", "edited", "kept", "new_graph_*")
NAMES = ("bit_errors", "excess_bits", "error", "*accuracy*", "stale_error", "perplexity", "supporting_recall")
METRICS = tuple(f"{split}/{name}" for split in SPLITS for name in NAMES)
METRICS += tuple(f"test/{name}" for name in ("bits", "optimal_bits", "recall", "attention_on_gold"))
METRICS += ("test/reciprocal_rank", "test/hits_*", "*/exact_match", "*/f1", "qa*/error")
METRICS += ("with_*/perplexity", "solved", "sequences_to_solve", "seconds")
QUICK = ("trainer.max_steps=300", "trainer.eval_every=300", "trainer.stop_after_solved=null", "trainer.num_replicas=1")
MEASURED = {"transformer_wikitext2": ["probes=32"]}
"""Experiments whose runs without a memory are measured with memories behind their head, and how."""
CHOSEN_OVER = {"entity_network_babi_10k": ["optim.lr"]}
"""Settings of an experiment of which a value is chosen with the restart; each value is recorded alone as well."""
QUICK_ENTRIES = "entries=2000"
QUICK_AXES = {"seed": "0", "task.number": "1,2,4"}
"""What --quick takes of a sweep's axes."""


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        values = read_keys(words, {"set": "", "jobs": "1", "runs": "", "with": ""}, ["--quick", "--list"])
        name, quick = values["set"], bool(values["--quick"])
        sweeps = sweeps_of(name)
        jobs = whole_number("jobs", values["jobs"])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = Path(values["runs"] or f"runs/{name}{'_quick' if quick else ''}")
    options = [*values["with"].split(), f"runtime.runs_dir={folder}", f"runtime.jobs={jobs}"]
    train = [sys.executable, str(ROOT / "scripts/train.py"), "-m"]
    commands = [[*train, f"sweep={s}", *options, *(quick_overrides(s) if quick else ())] for s in sweeps]
    if values["--list"]:
        print(*(shlex.join(command) for command in commands), sep="\n")
        return 0
    code = run_all(commands)
    if left := measurements_left(find_runs([str(folder / "*")])[0], quick):
        code = code or run_all(left)
    runs, problems = find_runs([str(folder / "*")])
    table = (folder if quick else ROOT / "results") / f"{name}.csv"
    try:
        recorded = record(table, runs, METRICS)
        for experiment, over in CHOSEN_OVER.items():
            own = [run for run in runs if run.name == experiment]
            recorded += record(table, own, METRICS, over) if own else []
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(recorded)} lines recorded; report: {write_report(make_report(runs, problems), folder / 'report')}")
    return code


def run_all(commands: list[list[str]]) -> int:
    """Run sweeps in turn and return the first code that isn't 0; one that was interrupted is the last."""
    codes = [0]
    for command in commands:
        with subprocess.Popen(command) as sweep:
            while sweep.poll() is None:
                with suppress(KeyboardInterrupt):  # the sweep has been told too: it saves its runs and ends
                    sweep.wait()
        codes.append(sweep.returncode)
        if sweep.returncode == INTERRUPTED:
            break
    return next((code for code in codes if code), 0)


def measurements_left(runs: list[Run], quick: bool) -> list[list[str]]:
    """Return a command for each finished run that is still to be measured with memories behind its head."""
    script = [sys.executable, str(ROOT / "scripts/output_memory.py")]
    return [
        [*script, f"checkpoint={run.path}", *([QUICK_ENTRIES] if quick else MEASURED[run.name])]
        for run in runs
        if run.done and run.name in MEASURED and run.config["model"].get("memory") is None and not with_memories(run)
    ]


def quick_overrides(sweep: str) -> list[str]:
    """What makes a sweep short."""
    grid = compose([f"sweep={sweep}"]).grid
    return [*QUICK, *(f"{axis}={few}" for axis, few in QUICK_AXES.items() if axis in grid or axis == "seed")]


def sweeps_of(name: str) -> list[str]:
    """Return the sweeps of a set: its own, and those whose names begin with its name."""
    known = sorted(path.stem for path in (ROOT / "configs/sweep").glob("*.yaml"))
    found = [sweep for sweep in known if name and (sweep == name or sweep.startswith(f"{name}_"))]
    if not found:
        raise UsageError(f"set={name or '?'}: no configs/sweep/{name or 'NAME'}*.yaml; there are {', '.join(known)}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
