"""WN18RR's archive, with a graph of family_example's edges, for tests that need no download."""

from __future__ import annotations

import io
import tarfile

from family_example import edges


def write_wn18rr(root, **changed):
    """An archive of three files; a name of `changed` takes the place of that file's text, or of the file by None."""
    told = ["\t".join(edge) + "\n" for edge in edges()]
    texts = {"train": "".join(told[2:]), "valid": told[0], "test": told[1]} | changed
    (root / "wn18rr").mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "wn18rr" / "WN18RR.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            if text is not None:
                member = tarfile.TarInfo(f"{name}.txt")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
    return root
