"""A reader with its memory, asked and edited in a terminal.

```
where does charles williams live?       a question
/write ID: TEXT  /replace ID: TEXT      an entry, whose id ends at the first ": "
/erase ID  /list [WORDS]  /load FILE    forget one, list those with these words, write a file's paragraphs
/k N  /help  /quit                      entries read for a question; this; leave
```
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memnets.serving.answer import Answer, Passage, Refused
from memnets.serving.documents import read_documents
from memnets.serving.memory_reader import MemoryReader

RIVALS, LISTED, LIKELY = 3, 20, 0.1
SHADES = ((0.6, "bold white on #0068a8"), (0.3, "white on #3d8fc2"), (0.1, "black on #b8d8ec"))


class Terminal:
    """Takes lines in; answers go to a console."""

    def __init__(self, reader: MemoryReader, console: Console) -> None:
        self.reader, self.console = reader, console
        self.k: int | None = None
        self.commands = {
            "/write": self._write,
            "/replace": self._replace,
            "/erase": self._erase,
            "/list": self._list,
            "/load": self._load,
            "/k": self._passages,
            "/help": self._help,
        }

    def take(self, line: str) -> bool:
        """Do what a line says; return whether to go on.

        Raises:
            Refused: it can't be done; nothing was changed.
        """
        line = line.strip()
        name, _, rest = line.partition(" ")
        if name == "/quit":
            return False
        if name in self.commands:
            self.commands[name](rest.strip())
        elif line.startswith("/"):
            raise Refused(f"{name} is no command: there are {', '.join(self.commands)}, /quit")
        elif line:
            self._show(self.reader.ask(line, self.k))
        return True

    def _write(self, rest: str) -> None:
        self._said("written", self.reader.write(*_id_and_text(rest)))

    def _replace(self, rest: str) -> None:
        self._said("replaced", self.reader.replace(*_id_and_text(rest)))

    def _erase(self, rest: str) -> None:
        self.reader.erase(rest)
        self._said("erased", [])

    def _load(self, rest: str) -> None:
        documents = read_documents(Path(rest).expanduser(), self.reader.limits)
        self._said(f"written, {len(documents)} of them", self.reader.write_all(documents))

    def _list(self, rest: str) -> None:
        found, count = self.reader.entries(rest, LISTED)
        for entry in found:
            self.console.print(Text.assemble((entry.id, "bold"), "  ", harmless(entry.text)))
        self.console.print(Text(counted(count) + (f", shown {LISTED}" if count > LISTED else ""), "dim"))

    def _passages(self, rest: str) -> None:
        if not rest.isdecimal() or not 1 <= int(rest) <= self.reader.limits.passages:
            raise Refused(f"/k {rest}: expected a number from 1 to {self.reader.limits.passages}")
        self.k = int(rest)

    def _help(self, rest: str) -> None:
        assert __doc__ is not None
        self.console.print(Text(__doc__.split("```")[1].strip("\n"), "dim"))

    def _said(self, done: str, notes: Iterable[str]) -> None:
        self.console.print(Text(f"{done}; {counted(len(self.reader))}", "dim"))
        for note in notes:
            self.console.print(Text(f"note: {note}", "yellow"))

    def _show(self, answer: Answer) -> None:
        self.console.print(Text(harmless(answer.text) or "(no answer)", "bold"))
        rivals = "  ".join(f"{harmless(text)} {share:.3f}" for text, share in answer.ranking[: 1 + RIVALS])
        self.console.print(Text(f"  {rivals}", "dim"))
        spans = any(passage.answers for passage in answer.passages)
        share = "answer" if spans else "attention"
        table = Table("relevance", share, "id", "passage", box=None, padding=(0, 1), header_style="dim")
        for passage in answer.passages:
            shares = [span.weight for span in passage.answers[:1]] if spans else [passage.attention]
            told = "".join(f"{share:.2f}" for share in shares if share is not None)
            table.add_row(f"{passage.relevance:.2f}", told, Text(passage.id), shaded(passage))
        self.console.print(table)


def shaded(passage: Passage) -> Text:
    """Return a passage with what was attended to shaded, and underlined what is likely to be the answer."""
    text = Text(harmless(passage.text))
    for start, end, weight in passage.tokens:
        for least, style in SHADES:
            if weight >= least:
                text.stylize(style, start, end)
                break
    for start, end, weight in passage.answers:
        if weight >= LIKELY:
            text.stylize("bold underline", start, end)
    return text


def harmless(text: str) -> str:
    """Return a text, letter by letter, with � for those that command a terminal; texts may come from anywhere."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def counted(count: int) -> str:
    """Return how many entries."""
    return "1 entry" if count == 1 else f"{count:,} entries"


def _id_and_text(rest: str) -> tuple[str, str]:
    id, parted, text = rest.partition(": ")
    if not parted:
        raise Refused("expected an id, a colon, a blank and a text, such as /write note 1: ann lives in rome.")
    return id, text


def converse(terminal: Terminal, prompt: str = "> ") -> None:
    """Take in what a person types, until /quit or the end of input; what can't be done is said, and passed over."""
    reader = terminal.reader
    terminal.console.print(f"{reader.name}: {len(reader)} entries in memory. Ask a question; /help lists commands.")
    while True:
        try:
            if not terminal.take(terminal.console.input(prompt)):
                return
        except Refused as error:
            terminal.console.print(Text(str(error), "red"))
        except (EOFError, KeyboardInterrupt):
            terminal.console.print()
            return


def read_lines(terminal: Terminal, lines: Iterable[str], source: str) -> None:
    """Take in all lines of a text.

    Raises:
        Refused: with the line's number, at the first line that can't be done; what stands before it was.
    """
    for number, line in enumerate(lines, start=1):
        try:
            if not terminal.take(line):
                return
        except Refused as error:
            raise Refused(f"{source}:{number}: {error}", error.status) from error
