"""Simple questions with their answers, in several wordings, made from the tables."""

from __future__ import annotations

import random

from .grammar import article, capitalise, expand
from .tables import (
    ABOUT_BLOCKS,
    ANIMAL_ROWS,
    CAPITAL_ROWS,
    COLOUR_ROWS,
    DAYS,
    MISSPELT_ROWS,
    MONTHS,
    NUMBERS,
    OPPOSITE_ROWS,
    PAST,
    PLAIN_ROWS,
    PLURALS,
    POEM_ROWS,
    RHYMES,
    SPELL,
    TALK_BLOCKS,
    UNKNOWN_ASK,
    UNKNOWN_OTHER,
    UNKNOWN_SAY,
    UNKNOWN_TOPICS,
)

QA = tuple[str, str]


def animal(rng: random.Random) -> QA:
    one, many, eat, live, say, young, more, legs = rng.choice(ANIMAL_ROWS)
    Many, a = capitalise(many), article(one)
    if (one == "llama" and rng.random() < 0.5) or rng.random() < 0.3:
        question = expand(
            f"[What do {many} eat?|What food do {many} eat?|What does {a} eat?|What do {Many} eat?|What do {many} like to eat?|What kind of food do {many} eat?|what do {many} eat|Do you know what {many} eat?]",
            rng,
        )
        return question, expand(f"{Many} eat {eat}.", rng)
    return rng.choice([
        (expand(f"[Where do {many} live?|Where does {a} live?|Where can I find {many}?]", rng), f"{Many} live {live}."),
        (expand(f"[What sound do {many} make?|What sound does {a} make?|What do {many} say?]", rng), f"{Many} {say}."),
        (expand(f"[What is a baby {one} called?|What do you call a baby {one}?|What is the name for a young {one}?]", rng), f"A baby {one} is called {article(young)}."),
        (expand(f"[How many legs does {a} have?|How many legs do {many} have?]", rng), f"{capitalise(a)} has {legs} legs."),
        (expand(f"[What is {a}?|Tell me about {many}.|What are {many}?|Describe {a}.|What do you know about {many}?|Tell me something about {many}.]", rng),
         f"{capitalise(a)} is an animal. {Many} live {live}, and they eat {eat}. {more}"),
        (expand(f"[What is special about {many}?|Tell me a fact about {many}.|Tell me something interesting about {many}.]", rng), more.replace("They", Many, 1).replace("Some of them", f"Some {many}", 1)),
    ])  # fmt: skip


def capital(rng: random.Random) -> QA:
    land, city = rng.choice(CAPITAL_ROWS)
    if rng.random() < 0.15:
        return expand(
            f"[Where is {city}?|In which country is {city}?]", rng
        ), f"{city} is in {land}. It is the capital."
    question = f"[What is the capital of {land}?|What's the capital of {land}?|Which city is the capital of {land}?|Tell me the capital of {land}.|Do you know the capital of {land}?|what is the capital of {land}]"
    return expand(question, rng), f"The capital of {land} is {city}."


def opposite(rng: random.Random) -> QA:
    word, other = rng.choice(OPPOSITE_ROWS)
    if rng.random() < 0.4 and word not in ("old", "light", "right", "short"):
        word, other = (other, word) if other not in ("short", "old", "light", "right") else (word, other)
    question = f'[What is the opposite of {word}?|What is the opposite of "{word}"?|Tell me the opposite of {word}.|Which word is the opposite of {word}?|What\'s the opposite of {word}?]'
    return expand(question, rng), f"The opposite of {word} is {other}."


def colour(rng: random.Random) -> QA:
    what, shade = rng.choice(COLOUR_ROWS)
    return expand(
        f"[What colour is {what}?|What color is {what}?|Which colour does {what} have?|What is the colour of {what}?]",
        rng,
    ), f"{capitalise(what)} is {shade}."


def plain(rng: random.Random) -> QA:
    question, answer = rng.choice(PLAIN_ROWS)
    if rng.random() < 0.25:
        question = rng.choice(
            [
                question[0].lower() + question[1:],
                question.rstrip("?."),
                "Please tell me: " + question,
                question.replace("What is", "What's", 1),
            ]
        )
    return question, answer


def arithmetic(rng: random.Random) -> QA:
    kind = rng.random()
    if kind < 0.5:
        a, b = (
            (rng.randint(0, 10), rng.randint(0, 10)) if rng.random() < 0.7 else (rng.randint(0, 20), rng.randint(0, 20))
        )
        op, word, result = "+", "plus", a + b
    elif kind < 0.8:
        a = rng.randint(0, 20)
        b = rng.randint(0, a)
        op, word, result = "-", "minus", a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        op, word, result = rng.choice("*x"), "times", a * b
    shown = f"{a} {op} {b}"
    question = expand(
        f"[What is {shown}?|What is {a} {word} {b}?|What's {shown}?|How much is {shown}?|{shown}|{shown} =|Calculate {shown}.|what is {a}{op}{b}?|{a}{op}{b}]",
        rng,
    )
    return question, expand(f"[{shown} = {result}.|{a} {word} {b} is {result}.]", rng)


def counting(rng: random.Random) -> QA:
    kind = rng.randrange(4)
    if kind == 0:
        n = rng.randint(3, 20)
        return expand(
            f"[Count to {n}.|Can you count to {n}?|Count from 1 to {n}.|Please count to {n}.]", rng
        ), ", ".join(map(str, range(1, n + 1))) + "."
    if kind == 1:
        n = rng.randint(0, 99)
        return expand(
            f"[Which number comes after {n}?|What number comes after {n}?|What comes after {n}?]", rng
        ), f"After {n} comes {n + 1}."
    if kind == 2:
        n = rng.randint(1, 60)
        return expand(
            f"[Which number comes before {n}?|What number comes before {n}?|What comes before {n}?]", rng
        ), f"Before {n} comes {n - 1}."
    a, b = rng.sample(range(60), 2)
    return expand(
        f"[Which is bigger, {a} or {b}?|Which number is bigger, {a} or {b}?|What is more, {a} or {b}?]", rng
    ), f"{max(a, b)} is bigger than {min(a, b)}."


def calendar(rng: random.Random) -> QA:
    names, noun = rng.choice([(DAYS, "day"), (MONTHS, "month")])
    i = rng.randrange(len(names))
    if rng.random() < 0.6:
        return expand(
            f"[What {noun} comes after {names[i]}?|Which {noun} comes after {names[i]}?|What comes after {names[i]}?]",
            rng,
        ), f"After {names[i]} comes {names[(i + 1) % len(names)]}."
    return expand(
        f"[What {noun} comes before {names[i]}?|Which {noun} comes before {names[i]}?|What comes before {names[i]}?]",
        rng,
    ), f"Before {names[i]} comes {names[i - 1]}."


def words(rng: random.Random) -> QA:
    kind = rng.randrange(6)
    if kind == 0:
        word = rng.choice(SPELL)
        return expand(
            f"[How do you spell {word}?|Spell {word}.|Spell the word {word}.|How is {word} spelled?]", rng
        ), f"{capitalise(word)} is spelled {'-'.join(word)}."
    if kind == 1:
        bad, good = rng.choice(MISSPELT_ROWS)
        return expand(
            f"[Correct the spelling: {bad}|Correct the spelling of {bad}.|How do you write {bad} correctly?|Is {bad} spelled correctly?]",
            rng,
        ), f"The correct spelling is {good}."
    if kind == 2:
        one, two = rng.choice(RHYMES).split()
        one, two = (one, two) if rng.random() < 0.5 or one in ("go",) else (two, one)
        return expand(
            f"[What rhymes with {one}?|Which word rhymes with {one}?|Tell me a word that rhymes with {one}.]", rng
        ), f"{capitalise(two)} rhymes with {one}."
    if kind == 3:
        regular, irregular = PLURALS.split("|")
        one = rng.choice(regular.split() + irregular.split())
        one, many = one.split(":") if ":" in one else (one, one + "s")
        return expand(
            f"[What is the plural of {one}?|What is more than one {one} called?]", rng
        ), f"The plural of {one} is {many}."
    if kind == 4:
        now, then = rng.choice(PAST.split()).split(":")
        return expand(
            f"[What is the past tense of {now}?|What is the past of {now}?]", rng
        ), f"The past tense of {now} is {then}."
    word = rng.choice(SPELL)
    return expand(
        f"[What is the first letter of {word}?|Which letter does {word} begin with?|With which letter does {word} start?]",
        rng,
    ), f"{capitalise(word)} begins with {word[0].upper()}."


def category(rng: random.Random) -> QA:
    groups = {
        "animals": [row[1] for row in ANIMAL_ROWS], "colours": "red blue green yellow black white orange purple pink brown".split(),
        "fruits": "apples pears plums cherries bananas oranges grapes strawberries".split(),
        "vegetables": "carrots potatoes tomatoes beans peas onions pumpkins".split(), "days": DAYS, "months": MONTHS,
        "numbers": NUMBERS[1:11], "farm animals": "cows horses sheep goats pigs hens ducks donkeys".split(),
        "flowers": "roses tulips daisies sunflowers lilies".split(), "toys": "balls kites dolls trains puzzles drums".split(),
    }  # fmt: skip
    group = rng.choice(tuple(groups))
    one, two, three = rng.sample(groups[group], 3)
    return expand(
        f"[Name three {group}.|Tell me three {group}.|Give me three {group}.|List three {group}.|Can you name three {group}?]",
        rng,
    ), f"{capitalise(one)}, {two} and {three}."


def about_me(rng: random.Random) -> QA:
    questions, answers = rng.choice(ABOUT_BLOCKS)
    return rng.choice(questions), rng.choice(answers)


def small_talk(rng: random.Random) -> QA:
    questions, answers = rng.choice(TALK_BLOCKS)
    return rng.choice(questions), rng.choice(answers)


def poem(rng: random.Random) -> QA:
    topic, text = rng.choice(POEM_ROWS)
    if rng.random() < 0.25:
        return rng.choice(["Write a poem.", "Tell me a poem.", "Write a short poem.", "Do you know a poem?"]), text
    return expand(
        f"[Write a poem about {topic}.|Write a short poem about {topic}.|Tell me a poem about {topic}.|Do you know a poem about {topic}?]",
        rng,
    ), text


def unknown(rng: random.Random) -> QA:
    if rng.random() < 0.12:
        a, b = rng.randint(21, 999), rng.randint(21, 999)
        return expand(
            f"[What is {a} + {b}?|What is {a} * {b}?|What is {a} - {b}?|{a} * {b}]", rng
        ), "Those numbers are too big for me. I can only calculate with small numbers."
    if rng.random() < 0.25:
        return rng.choice(UNKNOWN_OTHER), rng.choice(UNKNOWN_SAY)
    return rng.choice(UNKNOWN_ASK).replace("{x}", rng.choice(UNKNOWN_TOPICS)), rng.choice(UNKNOWN_SAY)


MAKERS = (
    (animal, 24), (capital, 8), (opposite, 7), (colour, 4), (plain, 20), (arithmetic, 14), (counting, 6), (calendar, 4),
    (words, 9), (category, 3), (about_me, 7), (small_talk, 9), (poem, 3), (unknown, 10),
)  # fmt: skip


def ask(rng: random.Random) -> QA:
    """One question with its answer."""
    makers, weights = zip(*MAKERS, strict=True)
    return rng.choices(makers, weights)[0](rng)
