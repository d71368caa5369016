"""Who and what the stories are about: names, animals and what they can do, people of the fairy tales, things, places."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .grammar import Character, Thing

GIRLS = (
    "Anna Mia Lily Emma Zoe Nora Ella Ruby Rosa Clara Alice Lucy Maya Ivy Sara Amy Molly Daisy Tina Kate Eva Jane Lena Sue "
    "Pia Bella Nina Grace Hazel Leah"
).split()
BOYS = (
    "Tom Ben Max Sam Leo Jack Finn Noah Tim Paul Oscar Hugo Adam Peter Luke Theo Dan Felix Jim Nick Emil Otto Carl Joe "
    "Mark Owen Henry Milo Anton David"
).split()
SHE_ANIMALS = (
    "Pip Luna Rosie Honey Penny Willow Dora Coco Mimi Tilly Poppy Olive Bea Flora Maple Ginger Lola Dot Minnie Fern "
    "Pearl Misty Hattie Clover Juniper"
).split()
HE_ANIMALS = (
    "Rusty Bruno Toby Benny Pepper Oliver Scout Bramble Barney Hopper Teddy Ollie Rolo Biscuit Gus Monty Pablo Freddy "
    "Basil Wally Sunny Patch Moss Ziggy Chester"
).split()

# kind | home | favourite food | skills | places
ANIMALS = """
fox | a warm den under an oak tree | berries | run dig | forest meadow snow desert
rabbit | a cosy burrow | carrots | dig run small | meadow forest farm valley snow
squirrel | a hollow in a tall tree | nuts | climb small | forest park town
mouse | a tiny hole under the roots of a tree | cheese | small dig | meadow farm garden town castle
bear | a big dry cave | honey | strong climb | forest mountain valley
owl | a nest in an old tree | berries | fly wise | forest castle snow
frog | a green pond | flies | swim small | pond meadow valley
duck | a nest beside the pond | bread crumbs | swim fly | pond farm beach island
hedgehog | a pile of dry leaves | apples | small slow | garden forest
cat | a basket beside the stove | fish | climb run | village garden farm town castle
dog | a wooden kennel | bones | run dig swim | village farm park town castle
horse | a stable on the farm | hay | run strong tall | farm meadow castle valley
cow | a big red barn | grass | strong | farm
pig | a muddy pen | corn | strong | farm
sheep | a green field | grass | slow | farm meadow mountain
goat | a little shed on the hill | leaves | climb | farm mountain
hen | a wooden hen house | corn | small | farm
llama | a stone barn high on the hill | grass | tall strong | mountain farm
donkey | an old stable | hay | strong slow | farm village
turtle | a quiet spot beside the pond | green leaves | swim slow | pond island beach
beaver | a house of sticks in the river | bark | swim strong | river
otter | a den in the river bank | fish | swim | river
badger | a deep burrow | roots | dig strong | forest
mole | a long tunnel under the ground | worms | dig small | garden meadow
robin | a nest in the hedge | seeds | fly small sing | garden park snow
crow | a nest at the top of a tall tree | seeds | fly wise | forest farm town castle
bird | a nest in a tree | seeds | fly sing small | garden park forest town valley island
bee | a golden hive | nectar | fly small | garden meadow
butterfly | a bed of flowers | nectar | fly small | garden meadow
ant | a tunnel in a hill of sand | crumbs | small strong | garden meadow
snail | a shady spot under a leaf | lettuce | slow small | garden valley
elephant | a shady place beside the river | leaves | strong tall | jungle river
monkey | a tree full of fruit | bananas | climb | jungle island
lion | a rocky cave | meat | strong run | plain
giraffe | a grassy place with tall trees | leaves | tall | plain
zebra | a wide green plain | grass | run | plain
tiger | a cave in the jungle | meat | strong run | jungle
parrot | a hole in a tall palm tree | fruit | fly | jungle island desert
panda | a forest of bamboo | bamboo | climb slow | jungle
koala | a tall gum tree | leaves | climb slow | jungle
kangaroo | a dry grassy valley | grass | run strong | plain
penguin | a small cave near a cold beach | fish | swim | snow
seal | a cave by the sea | fish | swim | beach snow
polar bear | a cave of ice | fish | strong swim | snow
camel | a tent at the edge of the desert | dry grass | tall strong | desert
crab | a hole in the sand | seaweed | small dig | beach island
dolphin | a blue bay | fish | swim | sea
whale | the deep blue sea | tiny shrimps | swim strong | sea
fish | a little cave under the sea | sea plants | swim small | sea
octopus | a cave under the sea | crabs | swim | sea
deer | a quiet part of the forest | leaves | run | forest meadow valley
wolf | a den among the rocks | meat | run strong | forest mountain snow
raccoon | a hollow log | berries | climb | forest park
kitten | a soft basket | milk | climb small | village garden town
puppy | a basket with a blue blanket | bones | run small | village park town
swan | a nest among the reeds | water plants | swim fly | pond river castle
goose | a nest beside the pond | grass | fly swim | pond farm
dinosaur | a warm valley | leaves | strong tall | valley
hippo | a muddy river | grass | swim strong | river jungle
"""

# kind | female, male or either | home | favourite food | skills | places
PEOPLE = """
princess | she | a white castle | strawberry cake | run | castle
prince | he | a white castle | apple pie | run | castle
queen | she | a castle with seven towers | plum cake | wise | castle
king | he | a castle with seven towers | roast potatoes | wise | castle
knight | both | a stone tower | bread and cheese | strong | castle
wizard | he | a crooked tower | mushroom soup | wise magic | castle forest
witch | she | a crooked hut | pumpkin soup | wise magic | forest
fairy | she | a flower with purple petals | honey | fly small magic | garden forest
dragon | both | a cave on the mountain | hot soup | fly strong | mountain castle
unicorn | both | a silver forest | sweet grass | run magic | forest meadow
giant | he | a house as big as a hill | big pots of soup | strong tall | mountain
pirate | both | an old wooden ship | fish and biscuits | swim climb | island sea
mermaid | she | a palace under the sea | sea plants | swim sing | sea
robot | both | a small workshop | drops of oil | strong | town
farmer | both | a house on the farm | bread and butter | strong | farm
baker | both | a house that smelled of bread | warm rolls | strong | village town
fisherman | he | a hut beside the sea | fish soup | swim | beach
astronaut | both | a space station | food from a tube | climb | space
gardener | both | a cottage full of flowers | fresh peas | dig | garden
elf | both | a house in a hollow tree | berry pie | small climb | forest
snowman | he | a house of ice on a white hill | snow | slow | snow
painter | both | a bright room under the roof | bread and grapes | climb | town
teacher | both | a house next to the school | apples | wise | village town
"""

PLACES: dict[str, tuple[str, ...]] = {
    "forest": ("the forest", "the green forest", "the quiet forest", "the deep forest"),
    "meadow": ("the meadow", "the sunny meadow", "the wide meadow"),
    "farm": ("the farm", "the little farm", "the old farm"),
    "park": ("the park", "the city park", "the big park"),
    "garden": ("the garden", "the old garden", "the garden behind the house"),
    "mountain": ("the mountain", "the high mountain", "the tall mountain"),
    "pond": ("the pond", "the quiet pond", "the little pond"),
    "river": ("the river", "the wide river", "the slow river"),
    "village": ("the village", "the little village", "the small village"),
    "town": ("the town", "the busy town", "the old town"),
    "jungle": ("the jungle", "the hot jungle", "the green jungle"),
    "plain": ("the wide plain", "the golden plain", "the grassy plain"),
    "island": ("the island", "the sunny island", "the small island"),
    "snow": ("the land of snow", "the cold white land", "the snowy land"),
    "beach": ("the beach", "the sandy beach", "the long beach"),
    "sea": ("the sea", "the blue sea", "the deep sea"),
    "desert": ("the desert", "the hot desert", "the wide desert"),
    "castle": ("the castle", "the great castle", "the kingdom"),
    "valley": ("the green valley", "the quiet valley", "the warm valley"),
    "space": ("the space station", "the big space station"),
}

PREPOSITIONS = {
    "farm": "on",
    "mountain": "on",
    "pond": "by",
    "river": "by",
    "plain": "on",
    "island": "on",
    "beach": "on",
}

COLOURS = "red blue green yellow purple orange white golden silver pink brown black".split()
TOYS = "ball kite doll drum wagon boat car train puzzle whistle teddy top hoop".split()
CLOTHES = "scarf hat coat mitten ribbon cap button shoe".split()
TREASURES = "key bell ring lamp shell stone feather coin cup book map flute basket bracelet".split()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What every animal or person of one kind has in common."""

    name: str
    gender: str
    home: str
    food: str
    skills: frozenset[str]
    places: tuple[str, ...]


def _animal(row: str) -> Kind:
    name, home, food, skills, places = (cell.strip() for cell in row.split("|"))
    return _kind(name, "both", home, food, skills, places)


def _person(row: str) -> Kind:
    name, gender, home, food, skills, places = (cell.strip() for cell in row.split("|"))
    return _kind(name, gender, home, food, skills, places)


def _kind(name: str, gender: str, home: str, food: str, skills: str, places: str) -> Kind:
    return Kind(
        name=name, gender=gender, home=home, food=food, skills=frozenset(skills.split()), places=tuple(places.split())
    )


ANIMAL_KINDS = tuple(_animal(row) for row in ANIMALS.strip().splitlines())
PEOPLE_KINDS = tuple(_person(row) for row in PEOPLE.strip().splitlines())
CHILD_HOMES = (
    "a small house with a green door",
    "a yellow house near the park",
    "a little house at the end of the road",
    "a tall house in the middle of the town",
    "a farm house on a hill",
    "a cottage near the forest",
    "a white house beside the sea",
)
CHILD_FOODS = ("pancakes", "apple pie", "noodles", "tomato soup", "pizza", "strawberries", "rice with beans", "cookies")


def child(rng: random.Random, *, not_like: Character | None = None) -> Character:
    """A girl or a boy; `not_like` asks for the other gender, so that "he" and "she" are clear."""
    female = not not_like.female if not_like else rng.random() < 0.5
    return Character(
        name=rng.choice(GIRLS if female else BOYS),
        kind="girl" if female else "boy",
        female=female,
        home=rng.choice(CHILD_HOMES),
        food=rng.choice(CHILD_FOODS),
        skills=frozenset({"run"}),
        places=("village", "park", "garden", "town", "farm", "forest", "beach", "meadow"),
        human=True,
    )


def being(rng: random.Random, kind: Kind, *, not_like: Character | None = None) -> Character:
    """Somebody of `kind`, with a name that fits; `not_like` asks for the other gender where the kind allows it."""
    female = not not_like.female if not_like else rng.random() < 0.5
    if kind.gender != "both":
        female = kind.gender == "she"
    if kind in PEOPLE_KINDS:
        names = GIRLS if female else BOYS
    else:
        names = SHE_ANIMALS if female else HE_ANIMALS
    taken = not_like.name if not_like else ""
    return Character(
        name=rng.choice([name for name in names if name != taken]),
        kind=kind.name,
        female=female,
        home=kind.home,
        food=kind.food,
        skills=kind.skills,
        places=kind.places,
        human=kind in PEOPLE_KINDS,
    )


def hero(rng: random.Random, skill: str | None = None) -> Character:
    """The one whom a story is about: an animal, a child or somebody from a fairy tale."""
    roll = rng.random()
    if roll < 0.3 and skill is None:
        return child(rng)
    kinds = ANIMAL_KINDS if roll < 0.82 else PEOPLE_KINDS
    kinds = tuple(kind for kind in kinds if skill is None or skill in kind.skills)
    return being(rng, rng.choice(kinds))


def friend(
    rng: random.Random, of: Character, place: str, skill: str | None = None, *, apart_from: Character | None = None
) -> Character:
    """Somebody else who may live at `place`, of another kind and gender than `of`, with `skill` when one is needed."""
    if of.kind in ("girl", "boy") and skill is None and apart_from is None and rng.random() < 0.5:
        return child(rng, not_like=of)
    if of.human and apart_from is None and rng.random() < 0.35:
        gender = "he" if of.female else "she"
        people = [kind for kind in PEOPLE_KINDS if kind.gender in ("both", gender) and _fits(kind, of, skill)]
        if people:
            return being(rng, rng.choice(people), not_like=of)
    kinds = [
        kind for kind in ANIMAL_KINDS if _fits(kind, of, skill) and not (apart_from and apart_from.kind == kind.name)
    ]
    here = (
        [kind for kind in kinds if place in kind.places] or [kind for kind in kinds if "forest" in kind.places] or kinds
    )
    while True:
        found = being(rng, rng.choice(here), not_like=of)
        if apart_from is None or found.name != apart_from.name:
            return found


def _fits(kind: Kind, of: Character, skill: str | None) -> bool:
    return kind.name != of.kind and (skill is None or skill in kind.skills)


def thing(rng: random.Random, *nouns: str) -> Thing:
    """A thing with a colour, or old, new, small ..., from `nouns` or from all toys, clothes and treasures."""
    noun = rng.choice(nouns or (*TOYS, *CLOTHES, *TREASURES))
    return Thing(
        noun=noun, adjective=rng.choice(COLOURS) if rng.random() < 0.8 else rng.choice(("new", "shiny", "little"))
    )
