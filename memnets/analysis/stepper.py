"""One self-contained HTML page in which a person steps through a trace and sees where each head reads and writes.

The page stands in `stepper.html` beside this file, and works without a network; this file fills in the numbers, each
array as one byte per number in base64.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from memnets.analysis.content import part_names
from memnets.analysis.traces import Trace, heaviest, slots_in_use
from memnets.files import write_atomic

STEPS = "steps.html"
TEMPLATE = Path(__file__).with_name("stepper.html")
MOST_SLOTS = 128
ROOM = 1_800_000
"""Bytes that memory and links may take each: the page stays under 6 MB, and far under it for all but long sequences."""

NOT_A_NUMBER, HIGHEST = 255, 254


def write_steps(trace: Trace, path: Path, title: str = "") -> Path:
    """Write the page for a trace and return its path."""
    write_atomic(path, steps_page(trace, title))
    return path


def steps_page(trace: Trace, title: str = "") -> str:
    """Return the whole page."""
    data = json.dumps(page_data(trace), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.replace("{{title}}", escape(title or "One sequence")).replace("{{data}}", data)


def page_data(trace: Trace) -> dict[str, Any]:
    """Return what the page shows: sizes, the slots shown, and arrays packed over those slots."""
    slots = page_slots(trace)
    place = {int(slot): index for index, slot in enumerate(slots)}
    in_use = [place[int(slot)] for slot in slots_in_use(trace.heads) if int(slot) in place]
    arrays = {name: getattr(trace, name) for name in ("inputs", "targets", "outputs")}
    arrays |= {name: getattr(trace, name)[..., slots] for name in ("write_weights", "read_weights")}
    if trace.pictures is not None:
        arrays["pictures"] = trace.pictures
    if trace.usage is not None:
        arrays["usage"] = trace.usage[:, slots]
    if trace.memory_slots is not None:
        kept = np.searchsorted(trace.memory_slots, slots)
        arrays |= {} if trace.memory is None else {"memory": trace.memory[:, kept]}
        arrays |= {} if trace.link is None else {"link": trace.link[:, kept[:, None], kept]}
    return {
        "steps": trace.num_steps,
        "memory_size": trace.memory_size,
        "slots": slots.tolist(),
        "in_use": in_use,
        "content_scale": _content_scale(trace),
        "arrays": {name: pack(array) for name, array in arrays.items()},
        "emitted": [_emitted(trace, name) for name in trace.emitted],
    }


def page_slots(trace: Trace) -> np.ndarray:
    """Return the slots shown: all where they fit and there are at most 128, else those that heads weigh most."""
    fits = MOST_SLOTS
    if trace.memory is not None:
        fits = min(fits, ROOM // (trace.num_steps * trace.memory.shape[-1]))
    if trace.link is not None:
        fits = min(fits, int((ROOM // trace.num_steps) ** 0.5))
    slots = heaviest(trace.heads, max(1, fits))
    return slots if trace.memory_slots is None else slots[np.isin(slots, trace.memory_slots)]


def pack(array: np.ndarray) -> dict[str, Any]:
    """Return an array as base64 of one byte per number, low + byte · (high - low) / 254; 255 is no number."""
    finite = array[np.isfinite(array)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(array.astype(np.float64), posinf=low, neginf=low) - low) / ((high - low) or 1.0) * HIGHEST
    codes = np.where(np.isfinite(array), np.clip(scaled, 0, HIGHEST).round(), NOT_A_NUMBER).astype(np.uint8)
    return {"shape": list(array.shape), "low": low, "high": high, "data": base64.b64encode(codes.tobytes()).decode()}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """Return the array that `pack` packed, to a 508th of its range: what the page itself computes."""
    codes = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["shape"])
    values = packed["low"] + codes * ((packed["high"] - packed["low"]) / HIGHEST)
    return np.where(codes == NOT_A_NUMBER, np.nan, values)


def _content_scale(trace: Trace) -> float:
    """Return where colours of content end: at what all but a few of the numbers in use keep below."""
    if trace.memory is None:
        return 1.0
    written = np.abs(trace.memory[np.isfinite(trace.memory) & (np.abs(trace.memory) > 1e-3)])
    return float(f"{np.percentile(written, 99):.2g}") if written.size else 1.0


def _emitted(trace: Trace, name: str) -> dict[str, Any]:
    """Return one emitted part: whose it is, what its numbers stand for, and the numbers to four digits."""
    values = trace.emitted[name]
    parts = part_names(name, values.shape[2]) if values.ndim == 3 else []
    rounded = [[_round(head) for head in step] for step in values.tolist()]
    return {"name": name.replace("_", " "), "heads": trace.head_names(name), "parts": parts, "values": rounded}


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return [_round(part) for part in value]
    return float(f"{value:.4g}") if np.isfinite(value) else None
