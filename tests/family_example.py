"""A family graph of its own, whose brothers share a mother, for tests that need no download."""

from __future__ import annotations

from memnets.tasks.family import Family

RELATIONS = ("mother", "son", "brother")
MOTHERS = range(8)


def edges():
    """Every mother has three sons; edges in the files' way: source, relation, target."""
    for mother in MOTHERS:
        sons = [f"{mother}.{number}" for number in range(3)]
        for son in sons:
            yield f"{mother}", "mother", son
            yield son, "son", f"{mother}"
        for one in sons:
            yield from ((one, "brother", other) for other in sons if other != one)


def write_family(root, **changed):
    """A folder of six files; a name of `changed` takes the place of that file's text."""
    told = ["\t".join(edge) for edge in edges()]
    parts = {name: told[start::5] for start, name in enumerate(("train", "valid", "test"))}
    parts["facts"] = told[3::5] + told[4::5]
    parts["entities"] = [f"{m}{end}" for m in MOTHERS for end in ("", ".0", ".1", ".2")]
    parts["relations"] = list(RELATIONS)
    folder = root / "family"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        (folder / f"{name}.txt").write_text(changed.get(name, "".join(f"{line}\n" for line in lines)))
    return root


def task_in(root, split="edges"):
    return Family(data_root=str(root), verify_checksum=False, split=split)
