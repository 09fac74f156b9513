"""Command lines of scripts: paths, and `key=value` as everywhere in memnets."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any


class UsageError(Exception):
    """A command line that says nothing these scripts know."""


def read_arguments(
    words: Sequence[str], defaults: dict[str, str], flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Return the paths, and a value for each key of `defaults` and of `flags` (`"yes"` if given, else empty).

    Raises:
        UsageError: a key or flag that isn't known, or a key without a value.
    """
    paths, values = [], defaults | dict.fromkeys(flags, "")
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            values[_known(word, flags)] = "yes"
        elif equals and key.isidentifier():
            if not value:
                raise UsageError(f"{key}= needs a value")
            values[_known(key, list(defaults))] = value
        else:
            paths.append(word)
    return paths, values


def number(given: dict[str, str], key: str, kind: type, default: Any) -> Any:
    """Return the value of a key as an int or float; None of `null`, the default if it isn't given.

    Raises:
        UsageError: it is no such number.
    """
    text = given.get(key)
    if text is None or text == "null":
        return default if text is None else None
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{key}={text}: expected a {'whole ' if kind is int else ''}number") from None


def _known(given: str, names: Sequence[str]) -> str:
    if given in names:
        return given
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names) or 'paths only'}"
    raise UsageError(f"{given} is not known; {hint}")
