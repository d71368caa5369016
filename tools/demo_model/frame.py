"""What every story has: how it begins, the place around it, how it ends and what was learnt."""

from __future__ import annotations

from .cast import PLACES, PREPOSITIONS
from .grammar import Character, Teller

BIG = {
    "giant",
    "whale",
    "elephant",
    "bear",
    "polar bear",
    "hippo",
    "queen",
    "king",
    "camel",
    "giraffe",
    "dinosaur",
    "horse",
    "cow",
}
LOOKS = "kind cheerful curious friendly gentle happy clever young lively quiet playful merry brave".split()
SMALL_LOOKS = (
    "little",
    "little",
    "little",
    "small",
    "brave little",
    "kind little",
    "clever little",
    "curious little",
    "cheerful little",
)
GROWN = {
    "farmer",
    "baker",
    "fisherman",
    "astronaut",
    "gardener",
    "painter",
    "teacher",
    "pirate",
    "knight",
    "wizard",
    "witch",
}

SIGHTS = {
    "forest": (
        "Sunlight fell through the leaves.",
        "The moss was soft and green.",
        "The tall trees whispered in the wind.",
    ),
    "meadow": ("The grass was full of flowers.", "Bees hummed in the clover.", "The grass was wet with dew."),
    "farm": ("The air smelled of hay.", "The hens were clucking in the yard.", "The fields were golden."),
    "park": (
        "Children were laughing by the fountain.",
        "The benches were warm from the sun.",
        "The ducks slept on the grass.",
    ),
    "garden": ("The roses were in bloom.", "The beans had grown tall.", "Butterflies danced over the flowers."),
    "mountain": (
        "The air was fresh and clear.",
        "Far below, the houses looked like toys.",
        "A cool wind blew over the rocks.",
    ),
    "pond": (
        "The water was as smooth as glass.",
        "The reeds moved softly in the wind.",
        "Little fish swam near the shore.",
    ),
    "river": ("The water sang over the stones.", "The river shone in the sun.", "Willows hung over the water."),
    "village": ("Smoke rose from the chimneys.", "The church bell rang.", "The street smelled of fresh bread."),
    "town": ("The streets were full of people.", "The shop windows shone.", "A clock struck ten."),
    "jungle": (
        "The leaves were as big as umbrellas.",
        "Warm rain dripped from the trees.",
        "Bright birds called to each other.",
    ),
    "plain": ("The grass was tall and golden.", "The sun was hot.", "A warm wind blew over the grass."),
    "island": ("The sand was white and warm.", "The palm trees swayed.", "The waves were small and blue."),
    "snow": ("The snow sparkled in the sun.", "The ice was blue and smooth.", "Soft snow was falling."),
    "beach": ("The waves rolled over the sand.", "The air smelled of salt.", "Gulls cried above the water."),
    "sea": ("The water was clear and blue.", "Little bubbles rose to the top.", "Sea plants waved in the water."),
    "desert": ("The sand was hot.", "The sky was wide and blue.", "A dry wind blew over the sand."),
    "castle": ("Flags waved on the towers.", "The halls were wide and bright.", "The garden was full of roses."),
    "valley": ("The hills were green all around.", "A warm stream ran between the ferns.", "The grass was soft."),
    "space": ("The stars were very bright.", "The Earth looked like a blue ball.", "It was very quiet."),
}
# Places that are big enough to live in; one lives near the others.
WIDE = {"space", "island", "sea", "snow", "castle", "forest", "jungle", "desert", "plain", "valley", "village", "town"}
HABITS = (
    "to play outside",
    "to watch the clouds",
    "to sing little songs",
    "to ask questions",
    "to listen to stories",
    "to explore new places",
    "to make new friends",
    "to laugh",
    "to look at the stars",
    "to collect pretty stones",
)


def look(t: Teller, who: Character) -> str:
    """A word for what `who` is like; nobody calls an elephant tiny."""
    return t.rng.choice(LOOKS if who.kind in BIG | GROWN or t.rng.random() < 0.55 else SMALL_LOOKS)


def begin(t: Teller, a: Character, place: str) -> None:
    """The first paragraph: who it is, where {a.he} lives and what {a.he} likes."""
    p = t.rng.choice(PLACES[place])
    t.know(
        a=a, p=p, at=f"{PREPOSITIONS.get(place, 'in')} {p}", look=f"{look(t, a)} {a.kind}", habit=t.rng.choice(HABITS)
    )
    t.know(home=t.fill("in {a.home}", "in {a.home}", "{at}" if place in WIDE else "near {p}"))
    t.say(
        "Once upon a time, there was {look.a} named {a}. {A.he} lived {home}.",
        "Once upon a time, {look.a} named {a} lived {home}.",
        "Once upon a time, there lived {look.a}. {A.his} name was {a}, and {a.he} lived {home}.",
        "{HOME}, there lived {look.a} named {a}.",
        "There was once {look.a} named {a}. {A.he} lived {home}.",
        "There once was {look.a} named {a} who lived {home}.",
        "Long ago, there was {look.a} called {a}. {A.he} lived {home}.",
        "{A} was {look.a} who lived {home}.",
        "{A} was {look.a}. {A.he} lived {home}.",
    )
    t.maybe(
        0.55,
        "{A.he} [loved|liked] {habit}.",
        "Most of all, {a.he} [loved|liked] {habit}.",
        "Every day, {a.he} liked {habit}.",
        "{A.he} loved {habit}, and {a.he} loved to eat {a.food}.",
    )
    t.ask("Who is the story about?", "The story is about {look.a} named {a}.", "It is about {a}, {look.a}.")
    t.ask("What is the name of the {a.kind}?", "The name of the {a.kind} is {a}.", "{A.his} name is {a}.")
    t.ask("Where did {a} live?", "{A} lived {home}.", "{A.he} lived {home}.")
    t.next()


def sight(t: Teller, place: str, chance: float = 0.4) -> None:
    """Perhaps a sentence about the place."""
    t.maybe(chance, t.rng.choice(SIGHTS[place]))


def end(t: Teller, *morals: str, feeling: str = "happy") -> None:
    """The last sentences; `morals` complete "{A} had learned that ...", `feeling` is what the question gets."""
    moral = t.fill(*morals)
    t.know(moral=moral)
    t.say(
        "{A} had learned that {moral}.",
        "From that day on, {a} [knew|never forgot|always remembered] that {moral}.",
        "That night, {a} thought about the day. Now {a.he} knew that {moral}.",
        "And so {a} learned that {moral}.",
    )
    t.maybe(0.15, "The end.")
    t.ask("What did {a} learn?", "{A} learned that {moral}.", "{A.he} learned that {moral}.")
    t.ask("How did {a} feel at the end?", f"At the end, {{a}} felt {feeling}.", f"{{A}} felt {feeling} at the end.")
    t.ask("What is the moral of the story?", "The moral is that {moral}.")
