"""An Omniglot of checkered characters, in the published layout, for tests that need no download."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from PIL import Image

from memnets.tasks.omniglot import Omniglot

ALPHABETS = {
    "images_background_small1": ("Balinese", "Greek"),
    "images_background_small2": ("Greek", "Japanese_(katakana)", "Sanskrit", "Tagalog"),
}
NUM_CHARACTERS, NUM_DRAWINGS = 6, 10


def png(ink):
    """A picture, black where there is ink, as the content of a file."""
    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def characters(alphabet, num_characters=NUM_CHARACTERS, num_drawings=NUM_DRAWINGS):
    """File names and contents: each character a board of 5 x 5 random fields; in each drawing one spot differs."""
    random = np.random.default_rng(list(alphabet.encode()))
    for character in range(1, num_characters + 1):
        board = np.kron(random.integers(0, 2, (5, 5)), np.ones((21, 21))).astype(bool)
        for drawing in range(1, num_drawings + 1):
            ink, row = board.copy(), 5 * drawing
            ink[row : row + 5, row : row + 5] ^= True
            yield f"{alphabet}/character{character:02}/{character:04}_{drawing:02}.png", png(ink)


def contents(archive, **sizes):
    return {
        f"{archive}/{name}": file for alphabet in ALPHABETS[archive] for name, file in characters(alphabet, **sizes)
    }


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_omniglot(root, layout="omniglot", unpacked=False, **sizes):
    for archive in ALPHABETS:
        files = contents(archive, **sizes)
        if not unpacked:
            write_zip(root / layout / f"{archive}.zip", files)
            continue
        for name, content in files.items():
            path = root / layout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def task_in(root, **fields):
    return Omniglot(data_root=str(root), verify_checksum=False, **fields)
