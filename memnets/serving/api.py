"""What a page asks of a reader, as JSON: without a socket, so that it can be tested and served by anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from memnets.serving.answer import Answer, Passage, Refused, Span
from memnets.serving.memory_reader import MemoryReader

RIVALS = 8
"""Answers of a ranking that are sent."""


class Api:
    """Calls by their path.

    ```
    /api/about     {}                               name, limits, a question as an example
    /api/entries   {search, most}                   entries, how many were found, how many there are
    /api/ask       {question, k}                    answer, ranking, passages
    /api/write     {id, text} or {documents: [..]}  notes
    /api/replace   {id, text}                       notes
    /api/erase     {id}                             nothing
    ```
    """

    def __init__(self, reader: MemoryReader) -> None:
        self.reader = reader
        self.calls: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            f"/api/{call.__name__}": call
            for call in (self.about, self.entries, self.ask, self.write, self.replace, self.erase)
        }

    def call(self, path: str, body: bytes) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            Refused: no such call, a body that is no JSON object in UTF-8, or what the call refuses.
        """
        if path not in self.calls:
            raise Refused(f"no call {path[:100]!r}: there are {', '.join(self.calls)}", 404)
        if len(body) > self.reader.limits.body:
            raise Refused(f"the request has {len(body):,} bytes: at most {self.reader.limits.body:,}", 413)
        try:
            given = json.loads(body.decode() or "{}")
        except (ValueError, RecursionError) as error:
            raise Refused(f"the request is no JSON in UTF-8: {error}") from error
        if not isinstance(given, dict):
            raise Refused('the request must be a JSON object, such as {"question": "..."}')
        return self.calls[path](given)

    def about(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Say what is served."""
        return {"name": self.reader.name, "example": self.reader.example, "limits": asdict(self.reader.limits)}

    def entries(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """List entries."""
        most = min(_taken(given, "most", int, 100), 1000)
        found, count = self.reader.entries(_taken(given, "search", str, ""), max(most, 0))
        return {
            "entries": [{"id": entry.id, "text": entry.text} for entry in found],
            "found": count,
            "total": len(self.reader),
        }

    def ask(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a question."""
        k = None if given.get("k") is None else _taken(given, "k", int)
        return told(self.reader.ask(_taken(given, "question", str), k))

    def write(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Write one document, or several."""
        documents = _taken(given, "documents", list, [given])
        if not all(isinstance(document, dict) for document in documents):
            raise Refused('documents: expected objects such as {"id": "...", "text": "..."}')
        texts = [(_taken(document, "id", str), _taken(document, "text", str)) for document in documents]
        return {"notes": self.reader.write_all(texts)}

    def replace(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put another text where one is."""
        return {"notes": self.reader.replace(_taken(given, "id", str), _taken(given, "text", str))}

    def erase(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Remove an entry."""
        self.reader.erase(_taken(given, "id", str))
        return {}


def told(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data."""
    ranking = [{"text": text, "probability": share} for text, share in answer.ranking[:RIVALS]]
    return {"answer": answer.text, "ranking": ranking, "passages": [_passage(passage) for passage in answer.passages]}


def _passage(passage: Passage) -> dict[str, Any]:
    return {**passage._asdict(), "tokens": _spans(passage.tokens), "answers": _spans(passage.answers)}


def _spans(spans: tuple[Span, ...]) -> list[dict[str, Any]]:
    return [span._asdict() for span in spans]


def _taken(given: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return a field of a request.

    Raises:
        Refused: it is missing without a default, or of another kind.
    """
    value = given.get(name, default)
    if value is None:
        raise Refused(f"{name} is missing: expected {kind.__name__}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refused(f"{name}: expected {kind.__name__}, not {type(value).__name__}")
    return value
