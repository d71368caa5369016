"""One story from one `random.Random`: a plot, a hero and a place that go together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import plots_brave, plots_friends, plots_lost, plots_make
from .cast import hero
from .frame import begin
from .grammar import Character, Teller

Plot = Callable[[Teller, Character, str], None]
PLOTS: dict[str, Plot] = {
    plot.__name__: plot for plot in (*plots_lost.PLOTS, *plots_friends.PLOTS, *plots_brave.PLOTS, *plots_make.PLOTS)
}
# What can happen without trees, gardens and houses; of that, what can happen in the sea.
ANYWHERE = {
    "new_friend", "birthday", "quarrel", "talent", "afraid_of_dark", "stars_song", "treasure", "lost_baby", "practice",
    "sharing", "sick_friend", "lost_thing", "strange_noise", "race", "broken_thing",
}  # fmt: skip
WET = {"new_friend", "birthday", "stars_song"}
BARE = {"space", "snow", "desert", "island"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """A finished story. `topics` are what it can be asked for by, `combo` is plot and hero, for the held-out split."""

    text: str
    plot: str
    hero: Character
    topics: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    combo: str


def tell(rng: random.Random) -> Story:
    """A new story, the same one for the same state of `rng`."""
    name = rng.choice(tuple(PLOTS))
    who = hero(rng)
    places = _places(name, who)
    while not places:
        who = hero(rng)
        places = _places(name, who)
    return tell_plot(rng, name, who, rng.choice(places))


def tell_plot(rng: random.Random, name: str, who: Character, place: str) -> Story:
    """The story of plot `name` with this hero at this place (a key of `cast.PLACES`)."""
    teller = Teller(rng)
    begin(teller, who, place)
    PLOTS[name](teller, who, place)
    teller.about("{a.a}", "{a.a} named {a}", "{look.a}", "{look.a} named {a}", "{a}", "{a.full}", "{a.a} {at}")
    if "b" in teller.state:
        teller.about("{a.a} and {b.a}", "{a.a} named {a} and {b.a} named {b}", "{a} and {b}")
    return Story(
        text=teller.text,
        plot=name,
        hero=who,
        topics=tuple(dict.fromkeys(teller.topics)),
        questions=tuple(teller.questions),
        combo=f"{name}/{who.name if who.kind in ('girl', 'boy') else who.kind}",
    )


def _places(plot: str, who: Character) -> list[str]:
    """Where this hero can live through this plot; empty if nowhere."""
    if plot == "race" and not ("slow" in who.skills or {"small"} == who.skills & {"small", "run", "fly"}):
        return []
    dry = [place for place in who.places if place != "sea" or plot in WET]
    return dry if plot in ANYWHERE else [place for place in dry if place not in BARE]
