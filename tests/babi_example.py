"""A bAbI data set of seven questions, in the published layout, for tests that need no download."""

from __future__ import annotations

from memnets.tasks.babi import Babi
from memnets.tasks.babi_files import NAMES

TRAIN = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went to the hallway.
5 Where is Mary? \tHallway\t4
1 Daniel went back to the garden.
2 Where is Daniel? \tgarden\t1
1 John went to the garden.
2 Mary went to the garden.
3 John moved to the hallway.
4 Where is John? \thallway\t3
"""
TEST = """\
1 Daniel went to the hallway.
2 Where is Daniel? \thallway\t1
3 John moved to the garden.
4 Daniel went to the garden.
5 Where is Daniel? \tgarden\t4
6 Where is John? \tgarden\t3
"""
VOCABULARY = ["", "back", "bathroom", "daniel", "garden", "hallway", "is", "john", "mary", "moved", "the", "to", "went"]
VOCABULARY += ["where"]


def write_babi(root, number=1, train=TRAIN, test=TEST, layout="babi", folder="en"):
    for part, content in (("train", train), ("test", test)):
        path = root / layout / folder / f"qa{number}_{NAMES[number - 1]}_{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def task_in(root, **fields):
    return Babi(data_root=str(root), verify_checksum=False, **fields)


def words_of(task, ids):
    return " ".join(task.vocabulary[i] for i in ids.flatten().tolist() if i)
