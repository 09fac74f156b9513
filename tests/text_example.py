"""A small text of its own, in three files, for tests that need no download."""

from __future__ import annotations

import zipfile

import numpy as np

from memnets.tasks.language_modelling import LanguageModelling

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "and", "é"]


def lines(count, seed=0):
    """Lines of one to six words; every seventh is empty."""
    random = np.random.default_rng(seed)
    for number in range(count):
        yield "" if number % 7 == 6 else " ".join(random.choice(WORDS, random.integers(1, 7)))


def text(count, seed=0):
    return "".join(f"{line}\n" for line in lines(count, seed))


def write_text(root, folder="wikitext2", layout="{}.txt", train=None, valid=None, test=None):
    """A folder of three files; texts may be given as text or bytes."""
    texts = {"train": train or text(200, 0), "valid": valid or text(30, 1), "test": test or text(40, 2)}
    for name, content in texts.items():
        path = root / folder / layout.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content if isinstance(content, bytes) else content.encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(path.stem, content)
        else:
            path.write_bytes(content)
    return root


def task_in(root, **fields):
    return LanguageModelling(data_root=str(root), **fields)
