"""Words and sentences of a text: words as lexical relevance and the hashed encoder see them."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Protocol, runtime_checkable


@runtime_checkable
class Analyzer(Protocol):
    """What makes words of a text, and none of a text without any: a function, or what a configuration can name."""

    def __call__(self, text: str, /) -> list[str]:
        """Return the words, in order."""
        ...


WORD = re.compile(r"\w+")
BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
"""Between two sentences of a European language. It errs after abbreviations."""
STOP_WORDS = """
a an and are as at be been but by did do does for from had has have he her his how in is it its not of on or she than
that the their then there these they this those to was were what when where which who whom whose why with
"""
"""Words of English that are in most texts, and what questions ask with."""


def words(text: str) -> list[str]:
    """Return runs of letters, digits and underscores in lower case: what separates them is no word."""
    return WORD.findall(text.lower())


def sentence_places(text: str) -> list[tuple[int, int]]:
    """Return where each sentence stands, text[start:end]; what has no word stays with the sentence after it."""
    start, end, places = len(text) - len(text.lstrip()), len(text.rstrip()), []
    for boundary in BOUNDARY.finditer(text):
        if WORD.search(text, start, boundary.start()):
            places.append((start, boundary.start()))
            start = boundary.end()
    return [*places, (start, end)] if start < end else places


class EnglishWords:
    """Stems of English words (Porter's second algorithm, by the package snowballstemmer), accents and stop words away.

    So "cities" finds "city". Of a text of stop words alone all are kept: a query such as "who is it?" has words.

    Raises:
        ImportError: the package is missing.
    """

    def __init__(self) -> None:
        try:
            import snowballstemmer
        except ImportError:
            raise ImportError("EnglishWords needs snowballstemmer: pip install 'memnets[retrieval]'") from None
        self._passed_over = frozenset(STOP_WORDS.split())
        self._stem = lru_cache(2**17)(snowballstemmer.stemmer("english").stemWord)

    def __call__(self, text: str) -> list[str]:
        """Return the stems, in order."""
        plain = unicodedata.normalize("NFKD", text)
        found = words("".join(letter for letter in plain if not unicodedata.combining(letter)))
        kept = [word for word in found if word not in self._passed_over] or found
        return [self._stem(word) for word in kept]
