"""Ask a trained reader: of stories (`python scripts/ask.py checkpoint=runs/NAME`) or with a memory (`folder=FOLDER`).

  checkpoint=PATH   a run folder (its newest checkpoint) or one checkpoint folder
  key=value         change the configuration, for example task.data_root=PATH
  --story FILE      read the story and its questions from a file, such as one of bAbI's; - is standard input
  --words           list the words it knows, and stop
  --page OUT.html   write a page to ask a Memory Network on, and stop: a browser computes it, without a network

Without --story you type: sentences, and questions, which end in a question mark; /words lists the vocabulary, /new
begins a new story, /quit leaves. What is piped in is read as --story - reads it, up to the first line that isn't
understood. Shows the answer, its rivals with their probabilities, and each hop's attention over the sentences.

  folder=FOLDER     a reader with its memory, which scripts/export.py wrote: ask it, change its memory, ask again
  key=value         change the configuration, for example task.encoder.encoder.name=PATH
  --load FILE       write a UTF-8 file's paragraphs into the memory first; may be given several times
  --serve           a page for a browser, on this machine alone: http://127.0.0.1:8000
  --host --port     serve elsewhere: who can reach another host can change the memory, as there is no password

Without --serve you type: questions, and /write ID: TEXT, /replace ID: TEXT, /erase ID, /list WORDS, /load FILE, /k N,
/help, /quit. The memory in the folder changes with every one of them.
Exit codes: 0 done; 1 a line was not understood, or nothing was asked; 2 arguments, checkpoint or data at fault.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console

from memnets.asking.page import write_page
from memnets.asking.reader import AskError, UnknownWords, read_checkpoint
from memnets.asking.session import Session, converse, read_lines, show_words
from memnets.check import ConfigError
from memnets.serving.command import ask_folder
from memnets.tasks.base import DataError
from memnets.training.checkpoint import CheckpointError

NOT_UNDERSTOOD, REFUSED = 1, 2


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    if any(word.startswith("folder=") for word in arguments):
        return ask_folder(arguments)
    given = parse(arguments)
    try:
        session = Session(read_checkpoint(given.checkpoint, given.overrides), Console(highlight=False))
        if given.words:
            show_words(session.reader, session.console)
        elif given.page:
            print(write_page(session.reader, Path(given.page)))
        elif given.story is None and sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # arrow keys and history at the prompt
            converse(session)
        else:
            return tell(session, given.story or "-")
    except (AskError, ConfigError, CheckpointError, DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    usage = "python scripts/ask.py checkpoint=PATH [key=value ...] [--story FILE | --words | --page OUT.html]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False)
    parser.add_argument("overrides", nargs="*")
    for option in ("--story", "--page"):
        parser.add_argument(option)
    parser.add_argument("--words", action="store_true")
    given = parser.parse_intermixed_args(arguments)
    paths = [word.partition("=")[2] for word in given.overrides if word.startswith("checkpoint=")]
    if len(paths) != 1:
        parser.error("give one checkpoint=PATH, a run folder such as runs/memn2n_babi-…")
    given.checkpoint = Path(paths[0])
    given.overrides = [word for word in given.overrides if not word.startswith("checkpoint=")]
    return given


def tell(session: Session, source: str) -> int:
    lines = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    try:
        read_lines(session, lines.splitlines(), "standard input" if source == "-" else source)
    except AskError as error:
        hint = "; --words lists them" if isinstance(error, UnknownWords) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return NOT_UNDERSTOOD
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
