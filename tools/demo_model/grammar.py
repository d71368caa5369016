"""A small story grammar: `[a|b]` picks an alternative, `{x.attribute}` fills in a character, a thing or a place.

A `Teller` holds what is true in one story (who, where, with what) and collects its paragraphs, so that every sentence
of the story is filled from the same state. All randomness comes from the `random.Random` it is given.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# An alternative that vanished leaves a space before the next mark.
SPACE = re.compile(r" +([ .,!?])")


def article(words: str) -> str:
    """`words` with "a" or "an" before it, chosen by the first letter ("an old boat", "a unicorn")."""
    vowel = words[0].lower() in "aeiou" and not words.lower().startswith(("uni", "one", "use"))
    return f"{'an' if vowel else 'a'} {words}"


def capitalise(text: str) -> str:
    """`text` with its first letter as a capital and the rest untouched."""
    return text[:1].upper() + text[1:]


def expand(template: str, rng: random.Random) -> str:
    """Replace each `[a|b|c]` of `template`, innermost first, by one of its alternatives; `[a|]` may vanish."""
    while (end := template.find("]")) >= 0:
        start = template.rindex("[", 0, end)
        template = template[:start] + rng.choice(template[start + 1 : end].split("|")) + template[end + 1 :]
    return template


class Entity:
    """Something a template can name; subclasses are frozen dataclasses with text-valued attributes."""


class Capital:
    """The same entity at the start of a sentence: every attribute begins with a capital letter."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity

    def __str__(self) -> str:
        return capitalise(str(self._entity))

    def __getattr__(self, name: str) -> str:
        return capitalise(str(getattr(self._entity, name)))


@dataclass(frozen=True, kw_only=True)
class Character(Entity):
    """Somebody in a story. `kind` is "girl", "fox", "dragon"; `skills` are what the plots ask for ("climb", "fly")."""

    name: str
    kind: str
    female: bool
    home: str = "a small house"
    food: str = "bread and jam"
    skills: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()
    human: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def he(self) -> str:
        return "she" if self.female else "he"

    @property
    def him(self) -> str:
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        return "her" if self.female else "his"

    @property
    def himself(self) -> str:
        return "herself" if self.female else "himself"

    @property
    def the(self) -> str:
        return f"the {self.kind}"

    @property
    def a(self) -> str:
        return article(self.kind)

    @property
    def full(self) -> str:
        return self.name if self.kind in ("girl", "boy") else f"{self.name} the {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Thing(Entity):
    """An object: `{o}` is "kite", `{o.full}` "red kite", `{o.a}` "a red kite", `{o.the}` "the red kite"."""

    noun: str
    adjective: str

    def __str__(self) -> str:
        return self.noun

    @property
    def full(self) -> str:
        return f"{self.adjective} {self.noun}"

    @property
    def a(self) -> str:
        return article(self.full)

    @property
    def the(self) -> str:
        return f"the {self.full}"


@dataclass(frozen=True)
class Word(Entity):
    """A plain word or phrase that a template may need with an article or a capital."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def a(self) -> str:
        return article(self.text)


@dataclass
class Teller:
    """One story while it is being told: the state that its sentences share, and the paragraphs so far."""

    rng: random.Random
    state: dict[str, Entity | Capital | str] = field(default_factory=dict)
    paragraphs: list[list[str]] = field(default_factory=lambda: [[]])
    questions: list[tuple[str, str]] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)

    def know(self, **entities: Entity | str) -> None:
        """Add to the state; entity `a` is also known as `A`, its form at the start of a sentence."""
        for key, value in entities.items():
            entity = Word(value) if isinstance(value, str) else value
            self.state[key] = entity
            self.state[key.upper()] = Capital(entity)

    def fill(self, *options: str) -> str:
        """One of `options`, expanded and filled from the state."""
        text = expand(self.rng.choice(options), self.rng).format_map(self.state)
        return SPACE.sub(r"\1", text).strip()

    def say(self, *options: str) -> None:
        """Add one of `options` to the current paragraph."""
        self.paragraphs[-1].append(self.fill(*options))

    def maybe(self, chance: float, *options: str) -> None:
        """`say` with probability `chance`."""
        if self.rng.random() < chance:
            self.say(*options)

    def next(self) -> None:
        """Begin a new paragraph."""
        if self.paragraphs[-1]:
            self.paragraphs.append([])

    def ask(self, question: str, *answers: str) -> None:
        """Remember a question about the story, with its answer."""
        self.questions.append((self.fill(question), self.fill(*answers)))

    def about(self, *topics: str) -> None:
        """Remember what this story may be asked for by ("a lost kite")."""
        self.topics.extend(self.fill(topic) for topic in topics)

    @property
    def text(self) -> str:
        return "\n\n".join(" ".join(sentences) for sentences in self.paragraphs if sentences)


def pick(rng: random.Random, options: Sequence[str]) -> str:
    """One of `options`."""
    return options[rng.randrange(len(options))]
