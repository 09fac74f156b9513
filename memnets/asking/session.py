"""Lines that tell a story and ask about it, typed or from a file, and what is shown in return.

```
Mary went to the hallway.            a sentence of the story
Where is Mary?                       a question: it ends in a question mark
1 John moved to the garden.          a number in front is passed over, but 1 begins a new story
2 Where is John?<tab>garden<tab>1    after a tab: the true answer (so a file of bAbI can be read as it is)
/new  /story  /words  /quit          begin a new story, show what is told, list the vocabulary, leave
```
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memnets.asking.reader import Answer, AskError, Reader, Sentence, UnknownWords

LINE = re.compile(r"(?:(?P<id>\d+)\s+)?(?P<text>[^\t]*)(?:\t\s*(?P<answer>[^\t]*))?.*")
COMMANDS = ("/new", "/story", "/words", "/quit")
RIVALS = 4
SHADES = ((0.66, "bold white on #0068a8"), (0.33, "white on #3d8fc2"), (0.1, "black on #b8d8ec"), (-math.inf, "dim"))
"""A cell's style from this weight on: readable on a light terminal and on a dark one."""

Said = Literal["nothing", "sentence", "question", "quit"]


class Session:
    """A story as far as it is told, and its questions; answers go to a console."""

    def __init__(self, reader: Reader, console: Console) -> None:
        self.reader, self.console = reader, console
        self.story: list[Sentence] = []

    def take(self, line: str) -> Said:
        """Take in a line, and return what it was.

        Raises:
            AskError: it isn't understood; the story stays as it was.
        """
        line = line.strip()
        if not line:
            return "nothing"
        if line.startswith("/"):
            return self._command(line)
        parts = LINE.fullmatch(line)
        assert parts is not None
        begun = [] if parts["id"] == "1" else self.story
        words = self.reader.read(parts["text"])
        if parts["text"].rstrip().endswith("?") or parts["answer"] is not None:
            self._show(words, self.reader.ask(begun, words), parts["answer"])
            return "question"
        self.story = [*begun, words]
        return "sentence"

    def _command(self, line: str) -> Said:
        if line not in COMMANDS:
            raise AskError(f"{line} is no command: there are {', '.join(COMMANDS)}")
        if line == "/new":
            self.story = []
        if line == "/story":
            self.console.print("\n".join(map(" ".join, self.story)) or "nothing is told yet")
        if line == "/words":
            show_words(self.reader, self.console)
        return "quit" if line == "/quit" else "nothing"

    def _show(self, question: Sentence, answer: Answer, truth: str | None) -> None:
        said = answer.ranking[0][0] or "(no word)"
        line = Text.assemble((f"{' '.join(question)}? ", ""), (said, "bold"))
        if truth is not None:
            right = truth.strip().lower() == said
            line.append("  right" if right else f"  wrong: it is {truth.strip().lower()}", "green" if right else "red")
        self.console.print(line)
        shown = (f"{word or '(no word)'} {share:.3f}" for word, share in answer.ranking[: 1 + RIVALS])
        self.console.print(Text("  " + "  ".join(shown), "dim"))
        if answer.dropped:
            kept = len(answer.story)
            self.console.print(f"  the memory holds {kept} sentences; left out, the oldest: {answer.dropped}")
        if answer.attention is not None:
            self.console.print(attention_table(answer))


def attention_table(answer: Answer) -> Table:
    """Return the weight of each sentence in each hop, shaded."""
    assert answer.attention is not None
    table = Table("sentence", box=None, padding=(0, 1), header_style="dim")
    for hop in range(len(answer.attention)):
        table.add_column(f"hop {hop + 1}", justify="right")
    for sentence, weights in zip(answer.story, answer.attention.T.tolist(), strict=True):
        table.add_row(" ".join(sentence), *map(_cell, weights))
    return table


def _cell(weight: float) -> Text:
    return Text(f" {weight:.2f} ", next(style for least, style in SHADES if weight >= least))


def show_words(reader: Reader, console: Console) -> None:
    """List the vocabulary."""
    console.print(f"{len(reader.words)} words: {' '.join(reader.words)}")


def read_lines(session: Session, lines: Iterable[str], source: str) -> int:
    """Take in all lines of a file; return how many were questions.

    Raises:
        AskError: with the line's number, at the first line that isn't understood; or no line is a question.
    """
    questions = 0
    for number, line in enumerate(lines, start=1):
        try:
            said = session.take(line)
        except AskError as error:
            raise type(error)(f"{source}:{number}: {error}") from error
        questions += said == "question"
        if said == "quit":
            break
    if not questions:
        raise AskError(f"{source}: nothing is asked: expected sentences, and questions that end in a question mark")
    return questions


def converse(session: Session, prompt: str = "> ") -> None:
    """Take in what a person types, until /quit or the end of input; what isn't understood is said, and passed over."""
    known = f"{session.reader.name} knows {len(session.reader.words)} words"
    session.console.print(f"{known}. Tell a story line by line; a question ends in a question mark.")
    session.console.print(f"Also: {' '.join(COMMANDS)}", style="dim")
    while True:
        try:
            if session.take(session.console.input(prompt)) == "quit":
                return
        except AskError as error:
            hint = "; /words lists them" if isinstance(error, UnknownWords) else ""
            session.console.print(Text(f"{error}{hint}", "red"))
        except (EOFError, KeyboardInterrupt):
            session.console.print()
            return
