"""Documents in a text file: one a paragraph."""

from __future__ import annotations

import re
from pathlib import Path

from memnets.serving.answer import Limits, Refused


def read_documents(path: Path, limits: Limits) -> list[tuple[str, str]]:
    """Return (id, text) of each paragraph of a UTF-8 file; blank lines part them, ids are `FILE:1`, `FILE:2`.

    Raises:
        Refused: no such file, too large a one, not UTF-8, or nothing in it.
    """
    try:
        size = path.stat().st_size
        if size > limits.file:
            raise Refused(f"{path} has {size:,} bytes: at most {limits.file:,}; split it", 413)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from error
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n"))]
    documents = [(f"{path.name}:{number}", part) for number, part in enumerate(filter(None, found), start=1)]
    if not documents:
        raise Refused(f"{path} holds no paragraph: expected texts with blank lines between")
    return documents
