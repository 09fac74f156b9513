"""Command lines of scripts: paths, and `key=value` as everywhere in memnets."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
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


def read_keys(words: Sequence[str], defaults: dict[str, str], flags: Sequence[str] = ()) -> dict[str, str]:
    """Return a value for each key of `defaults` and of `flags`, of a script that takes no paths.

    Raises:
        UsageError: a path, a key or flag that isn't known, or a key without a value.
    """
    paths, values = read_arguments(words, defaults, flags)
    if paths:
        raise UsageError(f"{paths[0]}: no paths are taken; --help tells more")
    return values


def run(
    script: Callable[[list[str]], None], words: list[str], told: str | None, failures: tuple[type[Exception], ...] = ()
) -> int:
    """Run a script and return its exit code: 0 done or helped with what it has `told` of itself, 2 not understood.

    `failures` are what its files may be the cause of: their message is printed, and the code is 1.
    """
    if {"-h", "--help"} & set(words):
        print(told)
        return 0
    try:
        script(words)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


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


def one_of(key: str, value: str, known: Sequence[str]) -> str:
    """Return a value that must be one of those known.

    Raises:
        UsageError: it isn't.
    """
    if value not in known:
        raise UsageError(f"{key}={value}: choose from {', '.join(known)}")
    return value


def numbers(key: str, text: str) -> list[int]:
    """Return whole numbers from 1 on, of a list with commas.

    Raises:
        UsageError: it is none.
    """
    words = text.split(",") if text else []
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{key}={text}: give whole numbers from 1 on, separated by commas")
    return [int(word) for word in words]


def whole_number(key: str, text: str) -> int:
    """Return a whole number from 1 on.

    Raises:
        UsageError: it is none.
    """
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{key}={text}: give a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds.

    Raises:
        UsageError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"seconds={text}: give a number") from None


def _known(given: str, names: Sequence[str]) -> str:
    if given in names:
        return given
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names) or 'paths only'}"
    raise UsageError(f"{given} is not known; {hint}")
