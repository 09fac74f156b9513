"""What memories behind a language model's head made of a run's test perplexity, as `output_memory.measure` left it."""

from __future__ import annotations

import json

from memnets.analysis.runs import Row, Run

EVALUATIONS = "evaluations.jsonl"


def with_memories(run: Run) -> dict[str, float]:
    """Return `with_cache/perplexity` and the like, each as it was measured last; {} where none was.

    Measurements of a changed configuration don't count, unless only the data's folder was named.
    """
    path = run.path / EVALUATIONS
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {
        f"with_{'_and_'.join(row['memories'])}/perplexity": float(row["test"])
        for line in lines
        if "output_memory" in line and _as_trained(line)
        for row in line["output_memory"]["rows"]
        if row["memories"]
    }


def _as_trained(line: Row) -> bool:
    return all(override.startswith("task.data_root=") for override in line["overrides"])
