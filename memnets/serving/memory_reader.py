"""A reader together with its memory: asked, and its memory written, replaced and erased, each change kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from memnets.memory.block import Block
from memnets.retrieval.base import ExternalMemory, Queries, Relevance
from memnets.retrieval.entries import Entry
from memnets.retrieval.selection import Selected, Selection, TopK
from memnets.serving.answer import Answer, Limits, Passage, Refused, Span
from memnets.serving.reading import Found, Reader, Reading

Result = TypeVar("Result")
SHOWN = 5
"""Ids or notes that a message lists."""


class Retrieval(NamedTuple):
    """How entries are found.

    Attributes:
        relevance: scores every entry.
        selection: chooses those that are read.
        score_unit: what scores are divided by before a reader sees them, as in training.
    """

    relevance: Relevance
    selection: Selection
    score_unit: float = 1.0


class MemoryReader:
    """Answers from a memory that people edit. Calls may come from several threads; they wait for one another.

    A change is on disk when its call returns, and one that raises `Refused` has changed nothing.

    Args:
        memory: what is asked and edited.
        retrieval: how entries are found.
        reader: what answers from them.
        folder: where the memory is saved at every change; None keeps it in RAM alone.
        limits: how large what comes in may be.
        name: of the run it comes from.
        example: a question that can be asked.
    """

    def __init__(
        self,
        memory: ExternalMemory,
        retrieval: Retrieval,
        reader: Reader,
        folder: Path | None = None,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        name: str = "",
        example: str = "",
    ) -> None:
        self.memory, self.retrieval, self.reader = memory, retrieval, reader
        self.folder, self.limits, self.name, self.example = folder, limits, name, example
        self._lock = RLock()

    def ask(self, question: str, k: int | None = None) -> Answer:
        """Return the answer, from the `k` best entries; as many as in training if not said.

        Raises:
            Refused: no question, a too long one, an empty memory, or k out of bounds.
        """
        question = _checked(question, "question", self.limits.question)
        if k is not None and not 1 <= k <= self.limits.passages:
            raise Refused(f"k={k}: expected from 1 to {self.limits.passages} passages")
        with self._lock, torch.no_grad():
            found, selected = _refusing(lambda: self._find(question, TopK(k) if k else self.retrieval.selection))
            reading = _refusing(lambda: self.reader.read(found))
        passages = self._passages(found, selected, reading)
        return Answer(reading.ranking[0][0] if reading.ranking else "", reading.ranking, passages)

    def write(self, id: str, text: str) -> list[str]:
        """Add an entry; return what its author should know.

        Raises:
            Refused: as `write_all` does.
        """
        return self.write_all([(id, text)])

    def write_all(self, texts: Sequence[tuple[str, str]]) -> list[str]:
        """Add entries, (id, text) each, all of them or none; return what their author should know.

        Raises:
            Refused: an id is there already or given twice, a text that can't be encoded, too much of something, or
                the disk is full.
        """
        entries = self._entries(texts)
        with self._lock:
            if known := [entry.id for entry in entries if self.memory.row(entry.id) is not None]:
                raise Refused(f"{_listed(known)}: in memory already; replace it, or choose another id", 409)
            if len(self.memory) + len(entries) > self.limits.entries:
                raise Refused(f"the memory would hold more than {self.limits.entries:,} entries; erase some first", 413)
            _refusing(lambda: self.memory.write(entries))
            self._keep(lambda: self.memory.erase([entry.id for entry in entries]))
        return self._notes(entries)

    def replace(self, id: str, text: str) -> list[str]:
        """Put another text where one of the same id is; return what its author should know.

        Raises:
            Refused: no such id, a text that can't be encoded or is too long, or the disk is full.
        """
        entries = self._entries([(id, text)])
        with self._lock:
            before = self._held(entries[0].id)
            _refusing(lambda: self.memory.replace(entries))
            self._keep(lambda: self.memory.replace([before]))
        return self._notes(entries)

    def erase(self, id: str) -> None:
        """Remove an entry; nothing of it is kept, on disk neither.

        Raises:
            Refused: no such id, or the disk is full.
        """
        with self._lock:
            before = self._held(id.strip())
            self.memory.erase([before.id])
            self._keep(lambda: self.memory.write([before]))

    def entries(self, search: str = "", most: int = 100) -> tuple[list[Entry], int]:
        """Return at most `most` entries with all the words of `search` in id or text, and how many there are.

        Higher rows come first: until something is erased, what was written last.
        """
        wanted = search.lower().split()
        with self._lock:
            held = [entry for row in range(self.memory.num_rows) if (entry := self.memory.entry(row)) is not None]
        found = [entry for entry in held if all(word in f"{entry.id} {entry.text}".lower() for word in wanted)]
        return found[::-1][:most], len(found)

    def save(self) -> None:
        """Write the memory to its folder, which holds the old one until the new one is whole.

        Raises:
            OSError: the disk is full, or the folder can't be written.
        """
        if self.folder is not None:
            with self._lock:
                self.memory.save(self.folder)

    def __len__(self) -> int:
        return len(self.memory)

    def _find(self, question: str, selection: Selection) -> tuple[Found, Selected]:
        query = self.memory.encoder.encode([question]).vectors
        scores = self.retrieval.relevance.scores(self.memory, Queries([question], query))
        selected = selection.select(scores)
        selected = selected._replace(scores=selected.scores / self.retrieval.score_unit)
        entries = [self.memory.entry(row) for row in selected.rows[selected.mask].tolist()]
        block, relevance = self.memory.read(selected), selected.scores[selected.mask].tolist()
        return Found(question, query, [entry for entry in entries if entry], block, relevance), selected

    def _passages(self, found: Found, selected: Selected, reading: Reading) -> tuple[Passage, ...]:
        """What was read, with its share of attention; the most relevant first."""
        rows = selected.rows[selected.mask].tolist()
        nothing: list[tuple[Span, ...]] = [()] * len(rows)
        spans = zip(reading.answers or nothing, reading.tokens or nothing, strict=True)
        passages = []
        for row, score, entry, (answers, own) in zip(rows, found.relevance, found.entries, spans, strict=True):
            items = (found.block.rows[0] == row) & found.block.mask[0]
            weights = None if reading.attention is None else reading.attention[items]
            share = None if weights is None else float(weights.sum())
            tokens = tuple(own) or self._tokens(entry.text, found.block, weights)
            passages.append(Passage(entry.id, entry.text, score, share, tokens, tuple(answers)))
        return tuple(sorted(passages, key=lambda passage: -passage.relevance))

    def _tokens(self, text: str, block: Block, weights: Float[Tensor, " items"] | None) -> tuple[Span, ...]:
        """The tokens of an entry that were read, where entries are read as tokens."""
        if block.tokens is None or weights is None:
            return ()
        places = self.memory.encoder.places(text)
        shares = zip(places, weights.tolist(), strict=False)  # what is beyond the memory's max_tokens was not read
        return tuple(Span(start, end, share) for (start, end), share in shares if end > start)

    def _entries(self, texts: Sequence[tuple[str, str]]) -> list[Entry]:
        """Entries of texts that a person wrote, within limits."""
        if not texts:
            raise Refused("nothing to write: expected at least one text with an id")
        if len(texts) > self.limits.at_once:
            raise Refused(f"{len(texts):,} entries at once: at most {self.limits.at_once:,}; write them in parts", 413)
        checked = [
            (_checked(id, "id", self.limits.id), _checked(text, f"text of {id[:40]!r}", self.limits.document))
            for id, text in texts
        ]
        if odd := [id for id, _ in checked if not id.isprintable()]:
            raise Refused(f"id {odd[0]!r}: expected letters that can be printed, on one line")
        ids = [id for id, _ in checked]
        if repeated := sorted({id for id in ids if ids.count(id) > 1} if len(set(ids)) < len(ids) else ()):
            raise Refused(f"{_listed(repeated)}: given more than once; each entry needs an id of its own", 409)
        return [Entry(id, text, self.reader.value(self._seen(text)[0])) for id, text in checked]

    def _seen(self, text: str) -> tuple[str, bool]:
        """What of a text the reader can read, and whether that is less than all."""
        if (end := self.reader.end(text)) is not None:
            return text[:end], bool(text[end:].strip())
        places = self.memory.encoder.places(text)
        most = getattr(self.memory, "max_tokens", len(places))
        end = max((end for _, end in places[:most]), default=0)
        return text[:end], len(places) > most and any(end > start for start, end in places[most:])

    def _notes(self, entries: Sequence[Entry]) -> list[str]:
        notes = []
        for entry in entries:
            seen, cut = self._seen(entry.text)
            if cut:
                notes.append(f"{entry.id}: all of it may be looked for, but it is read no further than “…{seen[-40:]}”")
            if (note := self.reader.note(seen)) is not None:
                notes.append(f"{entry.id}: {note}")
        return notes if len(notes) <= SHOWN else [*notes[:SHOWN], f"and {len(notes) - SHOWN} more like these"]

    def _held(self, id: str) -> Entry:
        row = self.memory.row(id)
        entry = None if row is None else self.memory.entry(row)
        if entry is None:
            raise Refused(f"no entry {id[:200]!r} in memory: look for its id in the list", 404)
        return entry

    def _keep(self, undo: Callable[[], None]) -> None:
        """Save a change; what can't be saved is undone."""
        try:
            self.save()
        except OSError as error:
            undo()
            raise Refused(f"the memory can't be saved, so nothing was changed: {error}", 507) from error


def _checked(text: str, name: str, most: int) -> str:
    """Return a text without blanks around it.

    Raises:
        Refused: it is empty, too long, or no text that UTF-8 can hold.
    """
    text = text.strip()
    if not text:
        raise Refused(f"the {name} is empty: expected some words")
    if len(text) > most:
        raise Refused(f"the {name} has {len(text):,} letters: at most {most:,}; shorten or split it", 413)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"the {name} is no Unicode text ({error.reason})") from error
    return text


def _refusing(action: Callable[[], Result]) -> Result:
    """Do something; a ValueError of memory, encoder or model becomes a refusal."""
    try:
        return action()
    except ValueError as error:
        raise Refused(str(error)) from error


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:SHOWN])) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
