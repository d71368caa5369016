"""Short exercises in looking back at what was said: names, repeated words, who has what.

They are useful in a conversation, and they teach a small model early to copy from its context, without which a story
can't keep the name of its hero.
"""

from __future__ import annotations

import random

from .cast import ANIMAL_KINDS, BOYS, COLOURS, GIRLS, HE_ANIMALS, SHE_ANIMALS, TOYS, TREASURES, Kind
from .grammar import article, capitalise, expand

Turns = list[tuple[str, str]]
NAMES = (*GIRLS, *BOYS, *SHE_ANIMALS, *HE_ANIMALS)
NOUNS = (*TOYS, *TREASURES)


def drill(rng: random.Random) -> Turns:
    """The turns of one exercise."""
    return rng.choice((repeat, my_name, my_pet, who_has, who_is))(rng)


def repeat(rng: random.Random) -> Turns:
    """Words to be said again."""
    pool = (*NAMES, *NOUNS, *COLOURS, *(kind.name for kind in ANIMAL_KINDS))
    words = rng.sample(pool, rng.randint(1, 8))
    shown = rng.choice((" ", ", ", ", ")).join(words)
    ask = expand("[Repeat after me|Please repeat|Repeat|Say|Repeat these words|Say this again]", rng)
    return [(f"{ask}: {shown}", shown)]


def my_name(rng: random.Random) -> Turns:
    """The user's name, and perhaps whether it is remembered."""
    name = rng.choice(NAMES)
    turns = [
        (
            expand(
                f"[My name is {name}.|I am {name}.|Hello, I am {name}.|Hi, my name is {name}|You can call me {name}.]",
                rng,
            ),
            expand(
                f"[Hello, {name}!|Nice to meet you, {name}!|Hi, {name}!] [How can I help you?|Would you like a story?]",
                rng,
            ),
        )
    ]
    if rng.random() < 0.6:
        turns.append((expand("[What is my name?|Who am I?|Do you know my name?]", rng), f"Your name is {name}."))
    return turns


def my_pet(rng: random.Random) -> Turns:
    """A pet or a thing of the user, with a question about it."""
    kind, other = (k.name for k in _kinds(rng))
    name, second = rng.sample(NAMES, 2)
    colour, noun = rng.choice(COLOURS), rng.choice(NOUNS)
    told = f"I have {article(kind)} named {name} and {article(other)} named {second}."
    question, answer = rng.choice([
        (f"What is the name of my {kind}?", f"The name of your {kind} is {name}."),
        (f"What is the name of my {other}?", f"The name of your {other} is {second}."),
        (f"Who is {name}?", f"{name} is your {kind}."),
        (f"Who is {second}?", f"{second} is your {other}."),
    ])  # fmt: skip
    if rng.random() < 0.3:
        told = f"I have {article(f'{colour} {noun}')}."
        question, answer = f"What colour is my {noun}?", f"Your {noun} is {colour}."
    return [(f"{told} {question}", answer)]


def who_has(rng: random.Random) -> Turns:
    """Two people with two things."""
    one, two = rng.sample(NAMES, 2)
    things = [f"{rng.choice(COLOURS)} {noun}" for noun in rng.sample(NOUNS, 2)]
    told = f"{one} has {article(things[0])}. {two} has {article(things[1])}."
    owner, thing = rng.choice(((one, things[0]), (two, things[1])))
    if rng.random() < 0.5:
        return [(f"{told} What does {owner} have?", f"{owner} has {article(thing)}.")]
    return [(f"{told} Who has the {thing.split()[1]}?", f"{owner} has the {thing.split()[1]}.")]


def who_is(rng: random.Random) -> Turns:
    """Two animals with names."""
    first, second = _kinds(rng)
    one, two = rng.sample(NAMES, 2)
    told = f"{one} is {article(first.name)}. {two} is {article(second.name)}."
    name, kind = rng.choice(((one, first.name), (two, second.name)))
    if rng.random() < 0.5:
        return [(f"{told} Who is {name}?", f"{name} is {article(kind)}.")]
    return [(f"{told} Who is the {kind}?", capitalise(f"the {kind} is {name}."))]


def _kinds(rng: random.Random) -> list[Kind]:
    return rng.sample(ANIMAL_KINDS, 2)
