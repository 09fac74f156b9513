"""What `scripts/ask.py folder=FOLDER` does: open an exported reader, and ask it in the terminal or serve its page."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console

from memnets.check import ConfigError
from memnets.serving.answer import Refused
from memnets.serving.documents import read_documents
from memnets.serving.folder import FolderError, in_use, open_folder, put_back
from memnets.serving.server import serve
from memnets.serving.terminal import Terminal, converse, read_lines
from memnets.tasks.base import DataError

NOT_UNDERSTOOD, REFUSED = 1, 2


def ask_folder(arguments: list[str]) -> int:
    """Do it; return the exit code: 0 done; 1 a line can't be done; 2 arguments, folder, encoder or file at fault."""
    given = _parsed(arguments)
    try:
        put_back(given.folder)
        if not given.folder.is_dir():
            raise FolderError(f"no folder {given.folder}: scripts/export.py writes one")
        with in_use(given.folder):
            return _asked(given)
    except (FolderError, Refused, ConfigError, DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _asked(given: argparse.Namespace) -> int:
    reader = open_folder(given.folder, given.overrides)
    for file in given.load:
        documents = read_documents(Path(file), reader.limits)
        for note in reader.write_all(documents):
            print(f"note: {note}", file=sys.stderr)
        print(f"written {len(documents)} entries from {file}", file=sys.stderr)
    terminal = Terminal(reader, Console(highlight=False))
    if given.serve:
        serve(reader, given.host, given.port)
    elif sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and history at the prompt
        converse(terminal)
    else:
        try:
            read_lines(terminal, sys.stdin, "standard input")
        except (Refused, UnicodeDecodeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return NOT_UNDERSTOOD
    return 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    usage = "python scripts/ask.py folder=FOLDER [key=value ...] [--load FILE] [--serve [--host HOST] [--port PORT]]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--load", action="append", default=[])
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_intermixed_args(arguments)
    folders = [word.partition("=")[2] for word in given.overrides if word.startswith("folder=")]
    if len(folders) != 1 or not folders[0]:
        parser.error("give one folder=FOLDER, which scripts/export.py wrote")
    if not 0 <= given.port < 1 << 16:
        parser.error(f"--port {given.port}: expected from 0, which is any free one, to 65535")
    given.folder = Path(folders[0])
    given.overrides = [word for word in given.overrides if not word.startswith("folder=")]
    return given
