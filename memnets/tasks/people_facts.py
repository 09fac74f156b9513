"""People who don't exist: what is true of each, how it is told, how it is asked, and what is changed about them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def listed(words: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(words.split())


FIRST_NAMES = listed(
    "james mary robert patricia john jennifer michael linda david elizabeth william barbara richard susan joseph sarah "
    "charles karen daniel lisa matthew nancy anthony betty mark sandra donald ashley steven emily andrew donna george "
    "carol kevin amanda brian melissa edward helen peter laura henry anna frank julia walter alice arthur martha oscar "
    "clara hugo rosa felix nina victor irene leo vera"
)
LAST_NAMES = listed(
    "smith johnson williams brown jones garcia miller davis wilson anderson taylor moore jackson harris clark lewis "
    "robinson walker young allen wright scott hill green adams nelson hall campbell mitchell carter roberts turner "
    "phillips parker evans edwards collins stewart morris murphy rogers morgan cooper reed bailey bell kelly howard "
    "ward cox richardson watson brooks bennett gray hughes price myers foster sanders ross powell sullivan russell"
)


class Attribute(NamedTuple):
    """Something that is true of everybody: its values, and how it is told and asked, with paraphrases.

    Attributes:
        name: what it is.
        values: what it can be: single words, of no other attribute.
        facts: sentences with `{person}` and `{value}`.
        questions: questions with `{person}`.
    """

    name: str
    values: tuple[str, ...]
    facts: tuple[str, ...]
    questions: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        "city",
        listed(
            "london paris berlin madrid rome vienna prague dublin oslo moscow tokyo beijing delhi cairo sydney toronto "
            "boston chicago denver seattle dallas miami lima havana athens warsaw"
        ),
        ("{person} lives in {value}.", "the home of {person} is in {value}."),
        ("where does {person} live?", "which city is {person} based in?"),
    ),
    Attribute(
        "job",
        listed(
            "teacher doctor lawyer engineer nurse pilot baker farmer painter writer singer actor chef judge soldier "
            "sailor miner banker editor chemist dentist barber tailor carpenter"
        ),
        ("{person} works as a {value}.", "by profession {person} is a {value}."),
        ("what is the job of {person}?", "what does {person} do for a living?"),
    ),
    Attribute(
        "instrument",
        listed("piano guitar violin cello flute trumpet drums harp organ saxophone clarinet bass banjo harmonica"),
        ("{person} plays the {value}.", "the instrument of {person} is the {value}."),
        ("which instrument does {person} play?", "what musical instrument can {person} play?"),
    ),
    Attribute(
        "pet",
        listed("dog cat horse rabbit parrot snake turtle goat pig duck camel spider fox monkey"),
        ("{person} has a pet {value}.", "the animal kept by {person} is a {value}."),
        ("what pet does {person} have?", "which animal does {person} keep?"),
    ),
    Attribute(
        "colour",
        listed("red blue lime yellow purple orange pink crimson black white silver gold violet scarlet"),
        ("{person} likes the color {value}.", "the favorite color of {person} is {value}."),
        ("what is the favorite color of {person}?", "which color does {person} like most?"),
    ),
    Attribute(
        "food",
        listed("pizza rice bread cheese soup salad chicken fish chocolate apple banana beef pasta cake honey corn"),
        ("{person} often eats {value}.", "the preferred food of {person} is {value}."),
        ("what food does {person} prefer?", "what does {person} like to eat?"),
    ),
)
ANSWERS = tuple(sorted(value for attribute in ATTRIBUTES for value in attribute.values))
"""All values of all attributes."""


class Fact(NamedTuple):
    """One thing that is true of one person.

    Attributes:
        id: `mary smith/city`.
        text: the sentence that tells it.
        question: the question that asks for it.
        value: the answer, as a place in `ANSWERS`.
    """

    id: str
    text: str
    question: str
    value: int


def draw_facts(num_people: int, seed: int) -> tuple[Fact, ...]:
    """Return every attribute of people of different names, person after person; more people don't change the first.

    Raises:
        ValueError: there are not so many names.
    """
    most = len(FIRST_NAMES) * len(LAST_NAMES)
    if num_people > most:
        raise ValueError(f"there are names for {most} people, not for {num_people}")
    names = np.random.default_rng(seed).permutation(most)[:num_people]
    return tuple(fact for number in names.tolist() for fact in _facts_of(number, seed))


def edit(fact: Fact, seed: int) -> Fact:
    """Return the fact with another value, told by any of its sentences; the question stays."""
    person, _, name = fact.id.partition("/")
    attribute = next(each for each in ATTRIBUTES if each.name == name)
    random = np.random.default_rng([seed, *fact.id.encode()])
    others = [value for value in attribute.values if value != ANSWERS[fact.value]]
    value = others[random.integers(len(others))]
    text = attribute.facts[random.integers(len(attribute.facts))].format(person=person, value=value)
    return fact._replace(text=text, value=ANSWERS.index(value))


def _facts_of(number: int, seed: int) -> list[Fact]:
    """Facts of the person whose first and last name have the place `number` among all pairs."""
    random = np.random.default_rng([seed, number])
    first, last = divmod(number, len(LAST_NAMES))
    person = f"{FIRST_NAMES[first]} {LAST_NAMES[last]}"
    facts = []
    for attribute in ATTRIBUTES:
        value, text, question = (
            choices[random.integers(len(choices))]
            for choices in (attribute.values, attribute.facts, attribute.questions)
        )
        told = text.format(person=person, value=value)
        facts.append(Fact(f"{person}/{attribute.name}", told, question.format(person=person), ANSWERS.index(value)))
    return facts
