"""Plots about making, growing and finding things: building, planting, baking, a wish, a talent, a map, a song."""

from __future__ import annotations

from .cast import friend
from .frame import end
from .grammar import Character, Teller

BUILDS = (
    ("a boat", "wood", "it had a hole and sank", "glue and a new board", "sailed across the water", "water"),
    ("a kite", "paper", "it was too heavy and fell down", "thin sticks and a long tail", "flew high above the trees", "land"),
    ("a tree house", "boards", "the first wind blew it down", "strong ropes and long nails", "stood safe and strong", "land"),
    ("a bridge", "branches", "it broke in the middle", "a big flat log", "was strong enough for everybody", "land"),
    ("a sled", "old boards", "it fell apart on the first hill", "two smooth runners", "flew down the hill like an arrow", "snow"),
    ("a sand castle", "dry sand", "it fell down at once", "wet sand and flat stones", "was as tall as a chair", "beach"),
    ("a wagon", "boxes", "one wheel came off", "four round wheels", "rolled down the road", "land"),
    ("a tower", "stones", "it fell over with a crash", "bigger and flatter stones", "was taller than a door", "land"),
    ("a bird house", "boards", "the roof fell off", "a new roof and some nails", "had a family of birds in it", "land"),
    ("a drum", "an old box", "it made no sound", "a round tin and a piece of cloth", "could be heard far away", "land"),
)  # fmt: skip


def build(t: Teller, a: Character, place: str) -> None:
    """The hero builds something; it fails; with a friend's idea the second try works."""
    rng = t.rng
    b = friend(rng, a, place)
    thing, stuff, fail, better, success, _ = rng.choice(
        [x for x in BUILDS if x[5] in ("land", "water") or x[5] == place]
    )
    short = thing.removeprefix("a ")
    t.know(b=b, thing=thing, short=short, stuff=stuff, fail=fail, better=better, success=success)
    t.say(
        'One day, {a} had an idea. "I will build {thing}!" {a.he} said.',
        "{A} had a plan. {A.he} wanted to build {thing}, all by {a.himself}.",
    )
    t.say(
        "{A.he} took {stuff} and worked all [morning|day]. At last the {short} was ready.",
        "{A} found {stuff} and worked very hard[, and {a.he} sang while {a.he} worked|].",
    )
    t.say("But then {fail}.", "But when {a} tried it, {fail}.")
    t.say(
        '"All that work for nothing!" said {a}. {A.he} was [angry|sad] and kicked a stone.',
        "{A} was so [sad|disappointed] that {a.he} wanted to give up.",
    )
    t.next()
    t.say("{A.his} friend {b.full} came to see. \"That is not bad,\" {b.he} said. \"It only needs {better}.\"",
          '"What happened?" asked {b.full}. {A} told {b.him}. {B} thought about it. "I think it needs {better}," {b.he} said.')  # fmt: skip
    t.say(
        '"Do you think so?" asked {a}. "Yes," said {b}. "Let us try again together."',
        '"That is a good idea," said {a}. "Will you help me?" "Of course!" said {b}.',
    )
    t.say(
        "They found {better}, and they began again. {A} [measured|held the pieces], and {b} [helped|handed {a.him} what {a.he} needed].",
        "So they went and got {better}. Then they worked side by side.",
    )
    t.next()
    t.say(
        "When the sun went down, the new {short} was ready. It {success}!",
        "This time it was right. The {short} {success}.",
    )
    t.say(
        '"We did it!" they [shouted|cheered].',
        '"It is even better than I dreamed," said {a}.',
        '"This is our {short}," said {a}, "because we made it together."',
    )
    end(
        t,
        "a mistake can show you a better way",
        "two heads are better than one",
        "you should try again when something goes wrong",
        "work is lighter when you share it",
        feeling="proud and happy",
    )
    t.about(
        "building {thing}", "{a.a} who builds {thing}", "trying again", "never giving up", "working together", "{thing}"
    )
    t.ask("What did {a} build?", "{A} built {thing}.")
    t.ask("What went wrong?", "At first, {fail}.")
    t.ask("What did it need?", "It needed {better}.")


PLANTS = (
    ("a sunflower", "taller than {a}", "a big yellow flower", "seeds for everybody"),
    ("an apple tree", "as tall as the house", "many red apples", "apples for everybody"),
    ("a pumpkin", "very long and green", "a huge orange pumpkin", "pumpkin soup for everybody"),
    ("a bean plant", "up to the roof", "a hundred green beans", "bean soup for everybody"),
    ("a rose bush", "thick and strong", "seven red roses", "a rose for each friend"),
    ("a tomato plant", "high up a stick", "round red tomatoes", "tomatoes for everybody"),
    ("a strawberry plant", "wide and green", "sweet red strawberries", "strawberries for everybody"),
)  # fmt: skip


def plant(t: Teller, a: Character, place: str) -> None:
    """The hero plants a seed, is impatient, waits, and shares the harvest."""
    rng = t.rng
    b = friend(rng, a, place)
    name, tall, fruit, share = rng.choice(PLANTS)
    t.know(b=b, plant=name, tall=tall.format_map({"a": str(a)}), fruit=fruit, share=share, one="one small seed")
    t.say("One [spring|spring day|morning in spring], {a} found a [small|tiny|strange] seed. \"What will it be?\" {a.he} wondered.",
          '{A.his} grandmother gave {a} a [small|tiny] seed. "Take good care of it," she said.')  # fmt: skip
    t.say(
        "{A.he} made a hole in the ground, put the seed in and [covered it with earth|gave it some water].",
        "{A} planted the seed in a sunny place and gave it water.",
    )
    t.say(
        "The next day, {a} ran out to look. There was nothing. The day after, there was still nothing.",
        "Every morning, {a} looked at the ground. But nothing happened.",
    )
    t.next()
    t.say(
        '"It will never grow," said {a}. "Maybe I should dig it up."',
        '"Why does it not grow?" {a} asked. {A.he} wanted to dig it out again.',
    )
    t.say(
        '"Wait," said {b.full}. "Good things need time. Give it water and sun, and be patient."',
        '{B.full} shook {b.his} head. "A seed needs water, sun and time," {b.he} said.',
    )
    t.say(
        "So {a} waited. {A.he} gave it water every day[ and pulled out the weeds|, and {a.he} told it little stories|].",
        "{A} listened to {b}. Every day {a.he} brought water, and every day {a.he} waited.",
    )
    t.say(
        "And then, one morning, there was a tiny green leaf!",
        "After two weeks, something green came out of the ground!",
    )
    t.next()
    t.say(
        "The plant grew and grew until it was {tall}. It was {plant}! In the end, it had {fruit}.",
        "It became {plant}, and it grew until it was {tall}. At last there came {fruit}.",
    )
    t.say(
        'Now there was {share}. "It was worth the wait," said {a}.'
        if not share.startswith(("seeds", "apples", "tomatoes", "strawberries"))
        else 'Now there were {share}. "It was worth the wait," said {a}.'
    )
    end(
        t,
        "good things need time",
        "it is good to be patient",
        "big things can grow from small seeds",
        feeling="proud and happy",
    )
    t.about("a seed", "planting a seed", "{a.a} who plants a seed", "being patient", "{plant}", "a garden")
    t.ask("What did {a} plant?", "{A} planted a seed.")
    t.ask("What did the seed become?", "It became {plant}.", "The seed became {plant}.")
    t.ask("What does a seed need?", "A seed needs water, sun and time.")


def cake(t: Teller, a: Character, place: str) -> None:
    """The hero wants to bake, has little, and each friend brings one thing."""
    rng = t.rng
    b = friend(rng, a, place)
    c = friend(rng, a, place, apart_from=b)
    first, second = rng.sample(["milk", "butter", "sugar", "eggs", "honey", "apples", "nuts", "berries"], 2)
    t.know(b=b, c=c, one=first, two=second, dish=rng.choice(["a cake", "a big pie", "a batch of pancakes", "a plate of cookies", "sweet bread"]),
           who=rng.choice(["{a.his} grandmother", "{a.his} mother", "the old neighbour", "{a.his} father", "{a.his} best friend"]))  # fmt: skip
    t.know(who=t.fill(str(t.state["who"])))
    t.say(
        "One day, {a} wanted to make {dish} for {who}.", 'It was a grey day. "I will make {dish} for {who}," said {a}.'
    )
    t.say(
        'But when {a.he} looked in the kitchen, there was only flour. "Oh no," said {a}. "I need {one} and {two}, too."',
        "{A.he} had flour, but {a.he} had no {one} and no {two}.",
    )
    t.say(
        'So {a} went to {b.full}. "Do you have {one}?" {a.he} asked. "Yes," said {b}, "and I will gladly give you some."'
    )
    t.next()
    t.say(
        'Then they went to {c.full}. "Do you have {two}?" asked {a}. "Yes, I do," said {c}. "May I help you?"',
        'On the way back, they met {c.full}, who had {two}. "May I come with you?" asked {c}.',
    )
    t.say(
        "Now there were three of them in the kitchen. {A} mixed the flour, {b} put in the {one}, and {c} put in the {two}.",
        "Back home, they all went to work. One of them mixed, one stirred, and one watched the oven.",
    )
    t.say(
        "Soon the whole house smelled [wonderful|sweet].",
        "There was flour [everywhere|on every nose], and they laughed a lot.",
    )
    t.next()
    t.say(
        'When it was ready, they brought {dish} to {who}. "For me? What a lovely surprise!"',
        'In the evening, they all went to {who} with {dish}. "This is the nicest surprise of the year!"',
    )
    t.say(
        "They sat down together and ate until there was not a crumb left.",
        "Everybody got a piece, and it tasted [wonderful|so good].",
    )
    end(
        t,
        "everything is easier when friends help",
        "many small gifts make something big",
        "it is nice to make others happy",
        feeling="happy",
    )
    t.about("baking", "{a.a} who makes {dish}", "making {dish}", "working together", "a surprise", "{dish}")
    t.ask("What did {a} want to make?", "{A} wanted to make {dish}.")
    t.ask("Who had the {one}?", "{B.full} had the {one}.")
    t.ask("Who was the surprise for?", "It was for {who}.")


GIVERS = (
    "an old woman with a heavy bag",
    "a fish that was lying on dry land",
    "a bird with its foot in a string",
    "a beetle on its back",
    "a tiny star that had fallen from the sky",
)


def wish(t: Teller, a: Character, place: str) -> None:
    """The hero helps somebody strange, gets one wish, and uses it for others."""
    rng = t.rng
    giver = rng.choice(GIVERS)
    short = "the " + giver.split()[1] if not giver.startswith(("an old", "a tiny")) else "the " + giver.split()[2]
    b = friend(rng, a, place)
    deed = {"the woman": "carried the bag home for her", "the fish": "put it back into the water", "the bird": "cut the string",
            "the beetle": "turned it over", "the star": "threw it back up into the sky"}[short]  # fmt: skip
    thanks = "said" if short != "the star" else "called down"
    own, other, result = rng.choice([
        ("a golden crown", "there was no water left {at}, and the plants were dry", "soft rain began to fall, and everything turned green"),
        ("a big house", "{b.full} was ill and weak", "{b} opened {b.his} eyes, and {b.he} was well again"),
        ("a mountain of sweets", "{b.full} had lost {b.his} home in a storm", "there stood a new little home, just right for {b}"),
        ("a hundred toys", "{b.full} was always alone", "{b} had friends all around {b.him}"),
        ("a pair of wings", "there was nothing to eat {at}", "the trees were heavy with fruit"),
    ])  # fmt: skip
    t.know(b=b, giver=giver, short=short, deed=deed, own=own)
    t.know(other=t.fill(other), result=t.fill(result))
    t.say("One [day|evening], {a} saw {giver} {at}.", "One day, as {a} was walking {at}, {a.he} saw {giver}.")
    t.say(
        '"Please help me!" said {short}. {A} did not wait. {A.he} {deed}.',
        '"Can you help me?" asked {short}. "Of course," said {a}, and {a.he} {deed}.',
    )
    t.say(f'"Thank you," {thanks} {{short}}. "You have a kind heart. You may have one wish, but only one."')
    t.next()
    t.say(
        "A wish! {A} thought and thought. {A.he} could wish for {own}!",
        '"I could have {own}," thought {a}, and {a.his} eyes grew big.',
    )
    t.say("But then {a} remembered that {other}.", "But on the way home, {a} saw that {other}.")
    t.say(
        '{A} closed {a.his} eyes. "I know what I wish for," {a.he} said. "Not for me." And {a.he} whispered the wish.',
        "So {a} did not wish for {own}. {A.he} whispered another wish into the wind.",
    )
    t.next()
    t.say("In the same moment, {result}.", "There was a sound like a little bell, and {result}.")
    t.say(
        "Nobody knew who had done it. But {a} knew, and {a.he} [smiled|was happier than ever].",
        "{A} did not get {own}, but {a.he} had never been so happy.",
    )
    end(
        t,
        "the best wish is a wish for others",
        "giving makes you happier than having",
        "a kind heart is worth more than gold",
        feeling="very happy",
    )
    t.about("a wish", "magic", "{a.a} who has one wish", "a magic wish", "being kind", "kindness")
    t.ask("Who gave {a} a wish?", "{SHORT} gave {a} one wish.")
    t.ask("What did {a} do to help?", "{A} {deed}.")
    t.ask("What happened after the wish?", "{RESULT}.")


TALENTS = (
    ("fly", "fly like {b}", "fly"), ("climb", "climb trees like {b}", "climb"), ("swim", "swim like {b}", "swim"),
    ("sing", "sing like {b}", "sing"), ("strong", "be as strong as {b}", "strong"), ("tall", "be as tall as {b}", "tall"),
)  # fmt: skip
GIFTS = (
    ("a good listener", "One evening, {b} was very sad. {A} sat beside {b.him} and listened for a long time, and then {b} felt better."),
    ("a good nose", "One day, {a} smelled smoke before anybody else. {A.he} warned everybody, and the fire was put out in time."),
    ("good ears", "One night, {a} heard a quiet cry. A little one had fallen into a hole, and because of {a} it was saved."),
    ("good at telling stories", "One rainy day, everybody was in a bad mood. {A} told them a story, and soon they were all laughing."),
    ("good at finding things", "One day, {b} lost something very important. Nobody could find it, but {a} found it in the end."),
    ("very patient", "One day, {b} was caught in a bush full of thorns. {A} took out one thorn after the other until {b} was free."),
    ("good at making others laugh", "One day, a sad little mouse came by. {A} made a funny face, and the mouse laughed for the first time in weeks."),
)  # fmt: skip


def talent(t: Teller, a: Character, place: str) -> None:
    """The hero wants to be like somebody else, fails, and finds a talent of {a.his} own."""
    rng = t.rng
    need, wish_for, _ = rng.choice(
        [x for x in TALENTS if x[0] not in a.skills and not (x[0] == "climb" and "fly" in a.skills)]
    )
    b = friend(rng, a, place, need)
    gift, proof = rng.choice([g for g in GIFTS if not (a.kind == "mouse" and "mouse" in g[1])])
    t.know(b=b, need=need, gift=gift)
    t.know(wish=t.fill(wish_for), proof=t.fill(proof))
    t.say(
        "{A.his} friend was {b.full}. {A} wanted to {wish}.",
        '{A} often watched {b.full}. "I wish I could {wish}," {a.he} sighed.',
    )
    if need == "fly":
        t.say(
            "So {a} jumped from a big rock and waved {a.his} arms. But {a.he} only fell into [a bush|the grass]."
            if a.human or a.kind in ("girl", "boy")
            else "So {a} jumped from a big rock. But {a.he} only fell into [a bush|the grass]."
        )
    elif need == "sing":
        t.say(
            "{A} sang as loud as {a.he} could. But it sounded like [an old door|a rusty wheel], and everybody covered their ears."
        )
    elif need == "climb":
        t.say("{A} tried to climb a tree. But {a.he} slid down again and [got a bump|fell on {a.his} back].")
    elif need == "swim":
        t.say("{A} jumped into the water. But {a.he} only splashed around and got water in {a.his} nose.")
    else:
        t.say("{A} tried and tried, but {a.he} stayed just as {a.he} was.", "Every day {a} tried, but nothing changed.")
    t.say(
        '"I am good at nothing," said {a}[ sadly|].',
        '"There is nothing that I can do well," {a} said, and a tear ran down {a.his} face.',
    )
    t.next()
    t.say(
        '"That is not true," said {b}. "Everybody can do something. You only have to find it."',
        '"You do not have to be like me," said {b}. "There is something that only you can do."',
    )
    t.say("{A} did not believe it. But then something happened.", "{A} thought about that for many days.")
    t.say("{PROOF}")
    t.next()
    t.say(
        '"You see?" said {b}. "You are {gift}. I cannot do that as well as you."'
        if not gift.startswith("good ears") and not gift.startswith("a good nose")
        else '"You see?" said {b}. "You have {gift}. Nobody else has that."'
    )
    t.say(
        "{A} [blushed|smiled]. {A.he} did not want to be like somebody else anymore.",
        "{A} felt warm and [proud|happy] inside.",
    )
    end(
        t,
        "everybody has a talent",
        "it is best to be yourself",
        "you do not have to be like others to be special",
        feeling="proud",
    )
    t.about(
        "being yourself",
        "finding a talent",
        "{a.a} who wanted to {need}" if need in ("fly", "sing", "climb", "swim") else "{a.a} who wanted to be {need}",
        "being different",
    )
    t.ask("What did {a} want?", "{A} wanted to {wish}.", "{A.he} wanted to {wish}.")
    t.ask(
        "What was {a}'s talent?", "{A} was {gift}." if gift not in ("good ears", "a good nose") else "{A} had {gift}."
    )


def treasure(t: Teller, a: Character, place: str) -> None:
    """A map leads over three stations to a treasure that is not gold."""
    rng = t.rng
    b = friend(rng, a, place)
    first, second, last = rng.sample(
        [
            "the old bridge",
            "the crooked tree",
            "the round stone",
            "the dark cave",
            "the little well",
            "the broken wall",
            "the three rocks",
            "the hollow log",
        ],
        3,
    )
    find, why = rng.choice([
        ("an old music box", "When they opened it, it played the loveliest song"), ("a box of old letters", "They told of two friends who had lived here long ago"),
        ("a bag of seeds", "From them grew the most beautiful flowers"), ("a book of stories", "They read one story every evening"),
        ("a box with a mirror in it", "Beside the mirror was a note: the treasure is the one you see with you"), ("a glass bell", "It rang so clearly that everybody came and danced"),
    ])  # fmt: skip
    t.know(b=b, one=first, two=second, three=last, find=find, why=why, box=find.split(" ", 1)[1])
    t.say(
        'One day, {a} found an old map [in a bottle|under a stone|in a box]. There was a red cross on it. "A treasure map!" said {a}.',
        "One [rainy|windy] day, {a} found a piece of old paper. It was a treasure map!",
    )
    t.say(
        '{A.he} ran to {a.his} friend {b.full}. "Will you come with me?" {a.he} asked. "Yes!" said {b}. "I love adventures."',
        '{A} showed it to {b.full}. "Let us find the treasure together," said {b}.',
    )
    t.next()
    t.say(
        "First the map led them to {one}. From there they had to go to {two}.",
        "They walked to {one}, and from {one} they walked to {two}.",
    )
    t.say(
        'The way was long, and {b} was tired. "We are almost there," said {a}[ and gave {b} some water|].',
        'It began to rain, and {a} wanted to turn back. "Only a little farther," said {b}.',
    )
    t.say(
        "At last they came to {three}. {A} and {b} began to dig. Deep in the ground, there was {find}!",
        "The red cross was at {three}. They looked everywhere, and there, under a stone, they found {find}!",
    )
    t.next()
    t.say(
        "{WHY}. It was not gold[ or silver|], but they liked it even more.",
        '"It is not gold," said {b}. "But it is much nicer." {WHY}.'
        if not why.startswith(("Beside", "From", "They"))
        else '{WHY}. "That is better than gold," said {a}.',
    )
    t.say("They went home tired and happy.", "On the way home they sang all the songs they knew.")
    end(
        t,
        "the best part of a treasure is finding it together",
        "a treasure does not have to be gold",
        "an adventure is best with a friend",
    )
    t.about(
        "a treasure",
        "a treasure map",
        "{a.a} who finds a treasure map",
        "an adventure",
        "{a.a} and {b.a} on an adventure",
        "a map",
    )
    t.ask("What did {a} find first?", "{A} found an old treasure map.")
    t.ask("Where was the treasure?", "The treasure was at {three}.")
    t.ask("What was the treasure?", "The treasure was {find}.", "It was {find}.")


def tidy(t: Teller, a: Character, place: str) -> None:
    """The hero puts off a duty, gets into trouble because of it, and does it with a trick."""
    rng = t.rng
    b = friend(rng, a, place)
    item = rng.choice(
        ["the red hat", "the left shoe", "the new book", "the map", "the key", "the warm scarf", "the ticket"]
    )
    event = rng.choice(
        ["the picnic", "the boat trip", "the summer fair", "the birthday of a friend", "the puppet show"]
    )
    t.know(b=b, item=item, event=event)
    t.say(
        "{A} did not like to tidy up. There were things everywhere, on the floor and even [on the stove|under the pillow].",
        '{A}\'s home was a mess. "I will tidy up tomorrow," {a.he} said every day.',
    )
    t.say(
        "One day, {a} wanted to go to {event} with {b.full}. {A.he} only needed {item}.",
        "Then came the day of {event}. {A} needed {item}, and {b.full} was already waiting outside.",
    )
    t.say(
        "But where was it? {A} looked and looked, but {a.he} could not find it in all the mess.",
        '{A} pulled out one thing after the other. "It must be here somewhere!" {a.he} cried.',
    )
    t.next()
    t.say('"We will be too late," said {b}. {A} was close to tears.', '"If only I had tidied up!" said {a}.')
    t.say("{B} had an idea. \"Let us make a game of it,\" {b.he} said. \"I sing a song, and you put everything away before the song is over.\"",
          '"Come, I will help you," said {b}. "You pick up what is round, and I pick up what is not."')  # fmt: skip
    t.say(
        "They went to work, and it was fun! The pile got smaller and smaller.",
        "One, two, three, everything found its place.",
    )
    t.say("And there, at the very bottom, was {item}!", "Under the very last blanket lay {item}.")
    t.next()
    t.say(
        "They ran as fast as they could and came to {event} just in time.",
        "They reached {event} at the last moment, and it was wonderful.",
    )
    t.say(
        "That evening, {a} came home to a tidy room. It felt [good|lovely].",
        '"Now I can find everything," said {a} that night.',
    )
    end(
        t,
        "a little work today saves trouble tomorrow",
        "tidying up can be fun",
        "it is better to do things in time",
        feeling="pleased",
    )
    t.about("tidying up", "a messy room", "{a.a} who did not like to tidy up", "{a.a} who lost {item}")
    t.ask("What was {a} looking for?", "{A} was looking for {item}.")
    t.ask("Where did they want to go?", "They wanted to go to {event}.")
    t.ask("Where was it in the end?", "It was at the very bottom of the mess.")


def stars_song(t: Teller, a: Character, place: str) -> None:
    """Nobody can sleep, or everybody is sad; the hero's quiet song changes it."""
    rng = t.rng
    b = friend(rng, a, place)
    c = friend(rng, a, place, apart_from=b)
    t.know(
        b=b,
        c=c,
        song=rng.choice(
            ["about the moon", "about the wind", "about a small boat", "about home", "about the stars", "about spring"]
        ),
    )
    t.say(
        "{A} had a nice voice, but {a.he} was very shy. {A.he} only sang when nobody was there.",
        "When {a} was alone, {a.he} sang. But {a.he} was too shy to sing for others.",
    )
    t.say(
        "One night, nobody {at} could sleep. [The wind was loud|It was too hot|The moon was too bright].",
        "One night, it was too hot to sleep. Everybody {at} was awake and in a bad mood.",
    )
    t.say(
        '"I am so tired," said {b.full}. "Me, too," said {c.full}. "If only somebody could help us."',
        "{B.full} tossed and turned in bed. {C.full} counted to a hundred. It was no use.",
    )
    t.next()
    t.say(
        '"I know a song," said {a} very quietly. "But I am afraid that you will laugh."',
        "{A} wanted to help, but {a.his} heart beat fast. What if they laughed?",
    )
    t.say('"We will not laugh," said {b}. "Please sing it for us."', '"Do you know a song?" asked {c}. {A} nodded.')
    t.say(
        "So {a} closed {a.his} eyes and sang a quiet song {song}. At first {a.his} voice was shaking, but then it grew [warm and clear|stronger].",
        "{A} began to sing {song}, softly at first and then a little louder.",
    )
    t.next()
    t.say(
        "{B} yawned. {C} closed {c.his} eyes. Before the song was over, they were all asleep.",
        "One after the other, they closed their eyes. Soon there was not a sound {at}.",
    )
    t.say(
        'In the morning, {b} said, "That was the most beautiful song I ever heard. Will you sing again tonight?"',
        'The next day, everybody thanked {a}. "You have a lovely voice," said {c}.',
    )
    t.say("{A} blushed, and {a.he} sang again.", "And {a} sang for them every night.")
    end(
        t,
        "it is worth being brave and showing what you can do",
        "a small song can do great things",
        "you can help others with what you love",
        feeling="proud and no longer shy",
    )
    t.about("a song", "{a.a} who sings", "a shy {a.kind}", "being shy", "going to sleep", "a bedtime", "the night")
    t.ask("What did {a} sing about?", "{A} sang {song}.")
    t.ask("What happened when {a} sang?", "Everybody fell asleep.", "They all fell asleep.")


PLOTS = (build, plant, cake, wish, talent, treasure, tidy, stars_song)
