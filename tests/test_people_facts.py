"""The people that PeopleQA asks about: words that can't be confused, facts that tell what they should."""

from __future__ import annotations

import pytest

from memnets.tasks.people_facts import ANSWERS, ATTRIBUTES, FIRST_NAMES, LAST_NAMES, draw_facts, edit

FACTS = draw_facts(40, seed=0)


def test_no_word_has_two_meanings():
    words = [*FIRST_NAMES, *LAST_NAMES, *(value for attribute in ATTRIBUTES for value in attribute.values)]
    assert len(words) == len(set(words))
    told = " ".join(text for attribute in ATTRIBUTES for text in (*attribute.facts, *attribute.questions))
    assert not set(words) & set(told.replace("?", " ").replace(".", " ").split())
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


def test_everybody_has_every_attribute_once():
    assert len(FACTS) == len({fact.id for fact in FACTS}) == 40 * len(ATTRIBUTES)
    assert len({fact.id.split("/")[0] for fact in FACTS}) == 40


def test_a_fact_names_its_person_and_its_value_alone():
    for fact in FACTS:
        person, name = fact.id.split("/")
        values = next(attribute.values for attribute in ATTRIBUTES if attribute.name == name)
        assert person in fact.text
        assert person in fact.question
        assert [answer for answer in ANSWERS if answer in fact.text.rstrip(".").split()] == [ANSWERS[fact.value]]
        assert ANSWERS[fact.value] in values
        assert not set(ANSWERS) & set(fact.question.rstrip("?").split())


def test_all_paraphrases_and_nearly_all_values_occur():
    facts = draw_facts(400, seed=1)
    for attribute in ATTRIBUTES:
        own = [fact for fact in facts if fact.id.endswith(attribute.name)]
        assert {ANSWERS[fact.value] for fact in own} == set(attribute.values)
        people = [fact.id.split("/")[0] for fact in own]
        texts = {
            fact.text.replace(p, "P").replace(ANSWERS[fact.value], "V") for p, fact in zip(people, own, strict=True)
        }
        questions = {fact.question.replace(p, "P") for p, fact in zip(people, own, strict=True)}
        assert len(texts) == len(attribute.facts)
        assert len(questions) == len(attribute.questions)


def test_an_edit_changes_the_value_and_keeps_the_question():
    for fact in FACTS:
        edited = edit(fact, seed=0)
        name = fact.id.split("/")[1]
        assert (edited.id, edited.question) == (fact.id, fact.question)
        assert edited.value != fact.value
        assert ANSWERS[edited.value] in next(each.values for each in ATTRIBUTES if each.name == name)
        assert ANSWERS[edited.value] in edited.text
        assert ANSWERS[fact.value] not in edited.text.rstrip(".").split()
        assert edit(fact, seed=0) == edited
    assert [edit(fact, 0) for fact in FACTS] != [edit(fact, 1) for fact in FACTS]


def test_the_seed_decides():
    assert draw_facts(40, seed=0) == FACTS
    assert draw_facts(50, seed=0)[: len(FACTS)] == FACTS
    assert {fact.id for fact in draw_facts(40, seed=1)} != {fact.id for fact in FACTS}


def test_more_people_than_names():
    with pytest.raises(ValueError, match=r"there are names for 3840 people, not for 3841"):
        draw_facts(3841, seed=0)
