"""Answers to bAbI tasks 1 to 3 by hand: follow who goes where, who holds what, and where each thing has been."""

from __future__ import annotations

from collections import defaultdict

PEOPLE = frozenset({"mary", "john", "daniel", "sandra"})
PLACES = frozenset({"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"})
THINGS = frozenset({"apple", "football", "milk"})
TAKE = frozenset({"got", "grabbed", "took", "picked"})
DROP = frozenset({"dropped", "discarded", "left", "put"})
ANSWERABLE = (1, 2, 3)
"""Tasks whose every sentence this world understands."""


class World:
    """Where people and things have been, told by words in order. Sentence ends need no mark: each names its actor."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = defaultdict(list)
        self.held: dict[str, set[str]] = defaultdict(set)
        self.actor = ""
        self.takes = True

    def tell(self, word: str) -> None:
        """Take in the next word of the story."""
        if word in PEOPLE:
            self.actor = word
        elif word in TAKE | DROP:
            self.takes = word in TAKE
        elif word in PLACES:
            for moved in (self.actor, *self.held[self.actor]):
                self._move(moved, word)
        elif word in THINGS:
            self._hand(word)

    def _hand(self, thing: str) -> None:
        if not self.takes:
            self.held[self.actor].discard(thing)
            return
        self.held[self.actor].add(thing)
        if self.places[self.actor]:
            self._move(thing, self.places[self.actor][-1])

    def _move(self, moved: str, place: str) -> None:
        if self.places[moved][-1:] != [place]:
            self.places[moved].append(place)


def answer(words: list[str]) -> str:
    """Return the answer to a story and its question, "where is x" or "where was the x before the y".

    "" if the story does not tell.
    """
    start = len(words) - 1 - words[::-1].index("where")
    world = World()
    for word in words[:start]:
        world.tell(word)
    question = words[start:]
    if "before" not in question:
        return "".join(world.places[question[-1]][-1:])
    places = world.places[question[question.index("before") - 1]]
    later = [i for i, place in enumerate(places) if place == question[-1] and i > 0]
    return places[later[-1] - 1] if later else ""
