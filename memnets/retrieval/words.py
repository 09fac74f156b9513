"""Words of a text, as lexical relevance and the hashed encoder see them."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return runs of letters, digits and underscores in lower case: what separates them is no word."""
    return WORD.findall(text.lower())
