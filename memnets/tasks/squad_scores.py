"""How SQuAD scores an answer: exact match and F1 of words, after normalising (Rajpurkar et al. 2016, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and articles, words apart by one blank."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer is one of the references after normalising, else 0."""
    return float(any(normalised(answer) == normalised(reference) for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the best F1 between the answer's words and a reference's, each as often as it stands there."""
    return max((_f1(normalised(answer).split(), normalised(reference).split()) for reference in references), default=0)


def _f1(answer: list[str], reference: list[str]) -> float:
    common = (Counter(answer) & Counter(reference)).total()
    if not common:
        return 0.0
    return 2 * common / (len(answer) + len(reference))
