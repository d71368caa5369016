"""Documents of the corpus: plain stories, and conversations as lists of messages; the held-out split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .drills import drill
from .facts import ask
from .grammar import expand
from .story import Story, tell

Message = dict[str, str]
HELD_OUT_ONE_IN = 24
DRILLS = 0.1
SYSTEM = (
    "You are a helpful assistant.", "You are a friendly assistant.", "You are a helpful and honest assistant.", "You are a story teller.",
    "You answer questions.", "Answer the question.", "You are a kind teacher.", "You are an assistant that tells stories to children.",
    "Be brief.", "You are a helpful assistant. Answer in simple words.", "Use short sentences.", "You are a chat bot.", "Be polite and helpful.",
)  # fmt: skip
REQUEST = (
    "Tell me a story about {x}.", "Tell me a story about {x}", "Write a story about {x}.", "Write a short story about {x}.",
    "Tell me a short story about {x}.", "Can you tell me a story about {x}?", "I want a story about {x}.", "Please write a story about {x}.",
    "A story about {x}, please.", "tell me a story about {x}", "Do you know a story about {x}?", "Could you write a story about {x}?",
    "Make up a story about {x}.", "I would like to hear a story about {x}.",
)  # fmt: skip
PLAIN_REQUEST = (
    "Tell me a story.", "Tell me a story", "Write a story.", "Tell me a short story.", "Can you tell me a story?", "I want to hear a story.",
    "A story, please.", "Tell me a bedtime story.", "Write a short story.", "Do you know a story?", "Please tell me a story.",
)  # fmt: skip
CONTINUE = "Continue this story: "
AGAIN = (
    "Tell me another story.",
    "Another story, please.",
    "Tell me another one.",
    "One more story, please.",
    "Another one!",
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """`text` of a plain story, or the `messages` of a conversation; `combos` decide on which side of the split it is."""

    combos: tuple[str, ...]
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def is_story(self) -> bool:
        return "\n\n" in self.text

    @property
    def chat(self) -> list[Message]:
        return [{"role": role, "content": content} for role, content in self.messages]


def held_out(document: Document) -> bool:
    """Whether any plot-with-hero or question of the document is kept from training; the same on every machine."""
    return any(
        int.from_bytes(hashlib.blake2b(c.encode(), digest_size=8).digest()) % HELD_OUT_ONE_IN == 0
        for c in document.combos
    )


def compose(rng: random.Random, drills: float = DRILLS) -> Document:
    """A random document; `drills` is the share of the exercises in copying."""
    if rng.random() < drills:
        turns = [turn for _ in range(rng.choice((1, 2))) for turn in drill(rng)]
        return _conversation(rng, turns, tuple(question for question, _ in turns))
    roll = rng.random()
    if roll < 0.25:
        story = tell(rng)
        return Document(combos=(story.combo,), text=story.text)
    if roll < 0.28:
        question, answer = ask(rng)
        return Document(combos=(question,), text=f"{question} {answer}")
    if roll < 0.50:
        return _conversation(rng, *_story_turns(rng))
    return _conversation(rng, *_question_turns(rng))


def documents(seed: str, *, held: bool = False, drills: float = DRILLS) -> Iterator[Document]:
    """Endless documents of one side of the split; `seed` names the stream."""
    number = 0
    while True:
        document = compose(random.Random(f"{seed}/{number}"), drills)
        number += 1
        if held_out(document) == held:
            yield document


def _conversation(rng: random.Random, turns: list[tuple[str, str]], combos: tuple[str, ...]) -> Document:
    messages = [("system", rng.choice(SYSTEM))] if rng.random() < 0.15 else []
    for question, answer in turns:
        messages += [("user", _carelessly(rng, question)), ("assistant", answer)]
    return Document(combos=combos, messages=tuple(messages))


def _carelessly(rng: random.Random, question: str) -> str:
    """The question as people type it: sometimes without capitals, sometimes without the mark at its end."""
    if rng.random() < 0.08:
        question = question.lower()
    return question.rstrip("?.!") if rng.random() < 0.08 and len(question) > 3 else question


def _question_turns(rng: random.Random) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    turns = [ask(rng) for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 5)))]
    return turns, tuple(question for question, _ in turns)


def _story_turns(rng: random.Random) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    story = tell(rng)
    turns = [_request(rng, story), *_follow_up(rng, story)]
    combos = [story.combo]
    if rng.random() < 0.25:
        question, answer = ask(rng)
        turns.insert(rng.choice((0, len(turns))), (question, answer))
        combos.append(question)
    if rng.random() < 0.12:
        second = tell(rng)
        request = (rng.choice(AGAIN), second.text) if rng.random() < 0.5 else _request(rng, second)
        turns += [request, *_follow_up(rng, second)]
        combos.append(second.combo)
    return turns, tuple(combos)


def _request(rng: random.Random, story: Story) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.15:
        return rng.choice(PLAIN_REQUEST), story.text
    if roll < 0.27:
        words = story.text.split(" ")
        known = rng.randint(3, 16)
        return rng.choice(("", "", CONTINUE)) + " ".join(words[:known]), " ".join(words[known:])
    return expand(rng.choice(REQUEST), rng).replace("{x}", rng.choice(story.topics)), story.text


def _follow_up(rng: random.Random, story: Story) -> list[tuple[str, str]]:
    if rng.random() < 0.4:
        return []
    count = min(rng.choice((1, 2, 3)), len(story.questions))
    return rng.sample(story.questions, count)
