"""What a person reads when a run ends: five lines, the pictures, and what to type next."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memnets.training import checkpoint
from memnets.training.references import REFERENCES


def summary(folder: Path, overrides: Sequence[str], pictures: Sequence[Path]) -> str:
    """Return five lines on a finished run, its pictures, and the commands to go on with."""
    status = json.loads((folder / "status.json").read_text())
    newest = checkpoint.latest(folder / "checkpoints")
    lines = [
        f"trained   {_outcome(status)}",
        f"tested    {_tests(folder)}",
        f"speed     {status['sequences'] / max(status['seconds'], 1e-9):,.0f} sequences per second, "
        f"{status['seconds']:.0f} s in all",
        f"model     {status['parameters']:,} parameters, saved in {newest}",
        f"pictures  {'  '.join(map(str, pictures)) or 'none'}",
    ]
    further = {"trainer.max_steps": 2 * status["step"], "trainer.stop_after_solved": "null", "runtime.resume": newest}
    kept = [word for word in overrides if word.partition("=")[0].lstrip("+") not in further]
    count = json.loads((folder / "environment.json").read_text())["processes"]
    python = [interpreter()] if count == 1 else ["torchrun", f"--nproc-per-node={count}"]
    train = shlex.join([*python, "scripts/train.py", *kept, *(f"{key}={value}" for key, value in further.items())])
    commands = [
        f"resume    {train}",
        f"evaluate  {interpreter()} scripts/evaluate.py checkpoint={folder}",
        f"report    {interpreter()} scripts/report.py {folder}",
    ]
    return "\n".join([*lines, "", *commands])


def replica_summary(folders: Sequence[Path]) -> str:
    """Return a line on each of several finished runs that trained as one, and the command that compares them."""
    lines = [f"{folder}  {_tests(folder)}" for folder in folders]
    return "\n".join([*lines, "", f"report    {interpreter()} scripts/report.py {shlex.join(map(str, folders))}"])


def interpreter() -> str:
    """Return the Python that runs this, as one would type it: `python` where that is what a shell finds."""
    if shutil.which("python") == sys.executable:
        return "python"
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _outcome(status: dict[str, Any]) -> str:
    steps = f"{status['step']:,} steps, {status['sequences']:,} sequences"
    if status.get("solved_at_step") is not None:
        return f"solved after {status['solved_at_sequences']:,} sequences; stopped after {steps} ({status['outcome']})"
    return f"{steps} ({status['outcome']}); the task's own criterion was not met, or it has none"


def _tests(folder: Path) -> str:
    """First metric of every test set, from the last rows of the metrics file, and what the first's is compared with."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tests = {row["split"]: row for row in rows if row["split"] not in ("train", "validation")}
    metric = next((key for row in tests.values() for key in list(row)[4:]), "loss")
    values = [f"{name} {row[metric]:.4g}" for name, row in tests.items() if row.get(metric) is not None]
    return f"{metric}: {', '.join(values)}{_compared(folder, f'{next(iter(tests), None)}/{metric}')}"


def _compared(folder: Path, metric: str) -> str:
    """Levels of guessing and of the task's own solution, where they are known."""
    path = folder / REFERENCES
    found = json.loads(path.read_text()) if path.exists() else {}
    told = [f"{kind} {levels[metric]:.4g}" for kind, levels in found.items() if metric in levels]
    return f" ({', '.join(told)})" if told else ""
