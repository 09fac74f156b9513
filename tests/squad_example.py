"""A file of SQuAD of its own, tiny, for tests that need no download."""

from __future__ import annotations

import json

COLOURS = ["red", "green", "blue", "black", "white"]
THINGS = ["roof", "door", "gate", "wall", "tower"]
ARTICLES = 16


def paragraph(article, number):
    """A text and its questions; every thing of an article's paragraph has a colour of its own."""
    words, qas = f"In town {article} of county {number} much is painted. ", []
    for i, thing in enumerate(THINGS):
        colour = f"{COLOURS[(article + i) % 5]} {COLOURS[(number + 2 * i) % 5]}"
        words += f"The {thing} is "
        answers = [{"text": colour, "answer_start": len(words)}]
        question = f"What is the {thing} of town {article} like, in county {number}?"
        qas.append({"id": f"{article}-{number}-{i}", "question": question, "answers": answers})
        words += f"{colour}. "
    return {"context": words.strip(), "qas": qas}


def write_squad(root, articles=ARTICLES):
    """Sixteen articles of four paragraphs, of five questions each."""
    data = [
        {"title": f"Town {article}", "paragraphs": [paragraph(article, number) for number in range(4)]}
        for article in range(articles)
    ]
    (root / "squad").mkdir(parents=True, exist_ok=True)
    (root / "squad" / "dev-v1.1.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    return root
