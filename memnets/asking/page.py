"""One self-contained HTML page on which a person asks a Memory Network: the weights and the forward pass are in it.

The page stands in `page.html` beside this file, the forward pass in `memn2n.js`; this file fills in the numbers.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from memnets.asking.reader import AskError, Reader
from memnets.files import write_atomic
from memnets.memory.attention_score import DotScore, ScaledDotScore
from memnets.memory.memory_network import SentenceEmbedding
from memnets.models.memn2n import MemN2N

TEMPLATE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.html", "memn2n.js"))


def write_page(reader: Reader, path: Path) -> Path:
    """Write the page and return its path.

    Raises:
        AskError: the page's script can't compute this model.
    """
    write_atomic(path, page(reader))
    return path


def page(reader: Reader) -> str:
    """Return the whole page."""
    data = json.dumps(page_data(reader), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    text = TEMPLATE.read_text(encoding="utf-8").replace("{{script}}", SCRIPT.read_text(encoding="utf-8"))
    return text.replace("{{title}}", escape(reader.name or "a Memory Network")).replace("{{data}}", data)


def page_data(reader: Reader) -> dict[str, Any]:
    """Return what the script needs: the words, an example, settings and matrices.

    Raises:
        AskError: the page's script can't compute this model.
    """
    story, question = reader.example
    return {
        "vocabulary": list(reader.vocabulary),
        "words": reader.words,
        "story_size": reader.spec.story_size,
        "sentence_size": reader.spec.sentence_size,
        "example": {"story": [" ".join(sentence) for sentence in story], "question": " ".join(question)},
        **_network(reader.model),
    }


def _network(model: nn.Module) -> dict[str, Any]:
    """Return settings and matrices; row 0 of words and ages is padding's."""
    if type(model) is not MemN2N:
        raise AskError(f"a page computes a MemN2N only, and this model is of another kind: {type(model).__name__}")
    score, activation = model.attention_score, model.activation
    if type(score) not in (DotScore, ScaledDotScore):
        raise AskError(
            f"a page scores sentences by DotScore or ScaledDotScore, and this model by {type(score).__name__}"
        )
    if type(activation) not in (nn.Identity, nn.ReLU):
        raise AskError(f"a page has a ReLU after each hop or nothing, and this model has a {type(activation).__name__}")
    assert isinstance(score, DotScore)
    tables = [table for table in model.embeddings if isinstance(table, SentenceEmbedding)]
    return {
        "num_hops": model.num_hops,
        "adjacent": model.adjacent,
        "position_encoding": tables[0].position_encoding,
        "scale": score.scale,
        "linear": model.phases_left > 0,
        "attend_empty": model.attend_empty,
        "relu": isinstance(activation, nn.ReLU),
        "embeddings": [{"words": pack(table.words.table()), "ages": pack(table.times())} for table in tables],
        "question": pack(None if model.question is None else model.question.words.table()),
        "update": pack(model.update),
        "answer": pack(model.answer),
    }


def pack(matrix: Float[Tensor, "rows columns"] | None) -> dict[str, Any] | None:
    """Return a matrix as base64 of little-endian 32-bit floats; None stays None."""
    if matrix is None:
        return None
    numbers = matrix.detach().cpu().float().numpy().astype("<f4")
    return {"shape": list(numbers.shape), "data": base64.b64encode(numbers.tobytes()).decode()}
