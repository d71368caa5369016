"""Plots about courage and practice: the dark, thunder, a noise, a new skill, a race, a storm, a thorn."""

from __future__ import annotations

from .cast import ANIMAL_KINDS, being, friend
from .frame import end
from .grammar import Character, Teller


def afraid_of_dark(t: Teller, a: Character, place: str) -> None:
    """The hero is afraid at night; a friend shows what is good about the dark."""
    rng = t.rng
    b = friend(rng, a, place)
    t.know(b=b, light=rng.choice(["a small lantern", "a candle", "a little lamp", "a jar with a light in it"]))
    t.say(
        "{A} had a secret. {A.he} was afraid of the dark.",
        "There was only one thing that {a} did not like. {A.he} was afraid of the dark.",
    )
    t.say(
        "Every [night|evening], when the sun went down, {a.he} [hid under the blanket|closed {a.his} eyes tightly].",
        "At night, every shadow looked like a monster.",
    )
    t.say(
        'One evening, {a.his} friend {b.full} asked, "Why do you never come out at night?"',
        'One evening, {b.full} came by. "Why do you never come out at night, {a}?" asked {b}.',
    )
    t.say('"Because it is dark, and I am afraid," said {a}[ quietly|].')
    t.next()
    t.say(
        '{B} did not laugh. "I was afraid once, too," {b.he} said. "Come, I will show you something."',
        '"Take {light} and come with me," said {b}. "I will be right beside you."',
    )
    t.say(
        "They went outside very slowly, side by side. {A.his} heart beat fast.",
        "{A} took a deep breath and went out with {b}. {A.his} knees were shaking.",
    )
    t.say(
        "What was that? A big dark shape! But it was only [a bush|an old tree|a rock].",
        '{A} saw a big shadow and wanted to run. "Look, it is only [a bush|an old tree|a rock]," said {b}.',
    )
    t.say(
        '"Now look up," said {b}. {A} looked up, and there were a thousand stars[ in the sky|].',
        "Then {b} pointed up. The sky was full of stars, and the moon [smiled down|shone like silver].",
    )
    t.next()
    t.say(
        '"Oh, how beautiful!" said {a}. "I could never see them under my blanket."',
        '"The dark is not empty," said {a}. "It is full of stars!"',
    )
    t.say(
        "They [sat there|lay on their backs] and counted stars until they were sleepy.",
        "That night, {a} slept very well.",
    )
    end(
        t,
        "the dark is not so bad with a friend",
        "you only see the stars when it is dark",
        "being brave means trying although you are afraid",
        feeling="brave and happy",
    )
    t.about("being afraid of the dark", "{a.a} who is afraid of the dark", "being brave", "the night", "the stars")
    t.ask("What was {a} afraid of?", "{A} was afraid of the dark.")
    t.ask("What did they see in the sky?", "They saw a thousand stars.", "They saw many stars.")
    t.ask("Who helped {a}?", "{B.full} helped {a}.")


NOISES = (
    ("Tap, tap, tap", "a branch that knocked on the window"), ("Whooo, whooo", "the wind in an empty bottle"),
    ("Scratch, scratch", "a tiny mouse that was looking for crumbs"), ("Drip, drop", "water that dripped into a bucket"),
    ("Boo, boo", "a little owl that wanted to play"), ("Crack, crack", "a squirrel that was opening nuts"),
    ("Hmm, hmm", "an old friend who was humming in the dark"), ("Flap, flap", "a shirt that was moving in the wind"),
)  # fmt: skip


def strange_noise(t: Teller, a: Character, place: str) -> None:
    """A frightening noise at night turns out to be something small."""
    rng = t.rng
    noise, source = rng.choice(NOISES)
    b = friend(rng, a, place)
    t.know(
        b=b,
        noise=noise,
        source=source,
        guess=rng.choice(["a monster", "a ghost", "a giant", "a thief", "a wild beast"]),
    )
    t.say(
        'One [stormy |dark |cold |]night, {a} heard a strange noise. "{noise}!" it went.',
        '{A} was lying in bed when there was a noise. "{noise}!"',
    )
    t.say(
        '"Is it {guess}?" thought {a}, and {a.he} [pulled the blanket over {a.his} head|did not dare to move].',
        '"It must be {guess}!" {a} whispered.',
    )
    t.say(
        '{A.he} ran to {a.his} friend {b.full}. "There is {guess} near my home!" {a.he} said.',
        '{A} woke {a.his} friend {b.full}, who was staying for the night. "Do you hear that?" {a.he} asked.',
    )
    t.next()
    t.say(
        '{B} was afraid, too. "[But we should look, and we will go together|We will only know if we look]," {b.he} said. {B.he} [took a lamp|lit a candle].'
    )
    t.say(
        'So the two of them went, step by step, closer and closer. "{noise}!" it went again[, louder than before|].',
        'They held on to each other and went to look. "{noise}!" There it was again.',
    )
    t.say(
        "{A} was shaking, but {a.he} held up the light. And what did they see? It was only {source}!",
        "Then {a} [counted to three|took a deep breath] and looked. It was {source}!",
    )
    t.next()
    t.say(
        '{A} and {b} looked at each other and [began to laugh|laughed and laughed]. "So that was {guess}!" said {b}.',
        '"That is all?" said {a}, and they laughed until their tummies hurt.',
    )
    t.say(
        "They went back inside, drank [warm milk|hot tea], and slept until morning.",
        "After that, they both slept like stones.",
    )
    end(
        t,
        "things are often less scary when you look at them",
        "a small noise can sound very big at night",
        "it is good to look before you are afraid",
        feeling="brave",
    )
    t.about(
        "a strange noise",
        "a strange noise in the night",
        "{a.a} who hears a noise",
        "being brave",
        "the night",
        "a scary night" if rng.random() < 0.5 else "a mystery",
    )
    t.ask("What did {a} hear?", '{A} heard a strange noise. It went "{noise}!"')
    t.ask("What made the noise?", "It was only {source}.", "The noise came from {source}.")
    t.ask("What did {a} think it was?", "{A} thought it was {guess}.")


SKILLS = (
    ("ride a bicycle", "fell off", "rode all the way to the corner and back", True),
    ("whistle", "only blew air", "whistled a whole song", False),
    ("dance", "stepped on {a.his} own feet", "danced without one wrong step", False),
    ("juggle three balls", "dropped the balls", "kept all three balls in the air", False),
    ("skate on the ice", "slipped and fell", "made a big circle on the ice", True),
    ("play the drum", "missed the beat", "played the drum like a real drummer", False),
    ("tie a knot", "got all tangled up", "tied a perfect knot", False),
    ("stand on one leg", "fell over", "stood on one leg and counted to twenty", True),
    ("throw a ball far", "threw it the wrong way", "threw the ball over the fence", False),
    ("draw a horse", "drew something like a potato", "drew a lovely horse", False),
    ("read", "mixed up the letters", "read a whole page aloud", False),
    ("jump over the stream", "landed in the water", "jumped over the stream with dry feet", True),
)  # fmt: skip


def practice(t: Teller, a: Character, place: str) -> None:
    """The hero can't do something, fails several times, practises and succeeds."""
    rng = t.rng
    b = friend(rng, a, place)
    skill, fail, success, _ = rng.choice(SKILLS)
    t.know(b=b, skill=skill)
    t.know(fail=t.fill(fail), success=t.fill(success))
    t.say(
        "{A} wanted to learn to {skill}.",
        "There was one thing that {a} wished for. {A.he} wanted to {skill}.",
        "All {a.his} friends could {skill}, but {a} could not.",
    )
    t.say(
        "One [day|morning], {a.he} tried it, but {a.he} {fail}. {A.he} tried again, and again {a.he} {fail}.",
        "On the first try, {a} {fail}. On the second try, {a.he} {fail} again.",
    )
    t.say(
        '"I will never learn it," [said|sighed] {a}, and {a.he} sat down[ {at}|].',
        '"It is too hard for me," said {a} sadly.',
    )
    t.next()
    t.say("{B.full} had seen everything. \"Do you know how often I tried before I could do it?\" {b.he} asked. \"A hundred times!\"",
          '{A.his} friend {b.full} sat down beside {a.him}. "Nobody can do it at once," said {b}. "Try a little every day."')  # fmt: skip
    t.say(
        '"[Really|A hundred times]?" asked {a}. "[Really|Yes]," said {b}. "Come, I will help you."',
        '"Will you help me?" asked {a}. "Of course," said {b}.',
    )
    t.say(
        "So {a} practised every day, [in the morning and in the evening|when the sun shone and when it rained]. {B} watched and [clapped|cheered].",
        "Every day they practised together. Each time it went a little better.",
    )
    t.next()
    t.say(
        "After [a week|ten days|many days], {a} tried once more. {A.he} took a deep breath, and {a.he} {success}!",
        "And then, one [sunny|fine] day, it happened. {A} {success}!",
    )
    t.say('"I did it! I did it!" {a} [shouted|cried|called].', '"Did you see that, {b}?" called {a}. "I did it!"')
    t.say('"I knew that you could," said {b}.', '{B} [clapped|jumped for joy]. "I am so proud of you!" {b.he} said.')
    end(
        t,
        "practice makes you better",
        "you must not give up too soon",
        "every try makes you a little better",
        feeling="very proud",
    )
    t.about(
        "learning something new",
        "never giving up",
        "{a.a} who learns to {skill}",
        "{a.a} who wanted to {skill}",
        "practice",
    )
    t.ask("What did {a} want to learn?", "{A} wanted to learn to {skill}.")
    t.ask("Who helped {a}?", "{B.full} helped {a}.", "{A.his} friend {b} helped {a.him}.")
    t.ask("How did {a} learn it?", "{A} practised every day.")


def race(t: Teller, a: Character, place: str) -> None:
    """A slow, steady hero beats a proud, fast one who stops on the way."""
    rng = t.rng
    fast = [k for k in ANIMAL_KINDS if "run" in k.skills and k.name != a.kind]
    b = being(rng, rng.choice(fast), not_like=a)
    why = rng.choice(
        [
            "lay down to sleep under a tree",
            "stopped to eat {b.food}",
            "stopped to tell everybody how fast {b.he} was",
            "stopped to look at {b.himself} in a puddle",
        ]
    )
    t.know(
        b=b, goal=rng.choice(["the big rock", "the old bridge", "the tall tree", "the windmill", "the end of the path"])
    )
    t.know(why=t.fill(why))
    t.say(
        "{A} was not very fast. But {a.he} [never gave up|always finished what {a.he} began].",
        "{A} walked slowly, one step after the other.",
    )
    t.say(
        'In the same place lived {b.full}. {B} was very fast and very proud. "I am the fastest of all!" {b.he} said every day.',
        'One day, {b.full} [laughed at|made fun of] {a}. "You are so slow!" {b.he} said.',
    )
    t.say(
        '"Let us have a race to {goal}," said {a}. {B} laughed. "I will win with my eyes closed!"',
        '"Then race with me," said {a}. "The first one at {goal} wins." "Ha!" said {b}. "That is easy."',
    )
    t.next()
    t.say(
        "One, two, three, go! {B} ran off like the wind, and soon {b.he} was far ahead.",
        "The race began. {B} was gone in a moment. {A} went on, step by step.",
    )
    t.say(
        '{B} looked back and could not see {a} anywhere. "I have so much time," {b.he} thought. So {b.he} {why}.',
        '"{A} will need all day," thought {b}, and {b.he} {why}.',
    )
    t.say(
        "But {a} did not stop. {A.he} went on and on, slowly and steadily. {A.he} passed {b}, and {b} did not notice.",
        "Meanwhile {a} kept going. {A.he} was tired, but {a.he} did not rest.",
    )
    t.next()
    t.say(
        "When {b} [finally remembered the race|looked up], {a} was almost at {goal}. {B} ran as fast as {b.he} could, but it was too late.",
        "At last {b} ran on. But when {b.he} came to {goal}, {a} was already there.",
    )
    t.say("{A} had won! Everybody [clapped and cheered|cheered].", '"You won," said {b} in surprise.')
    t.say(
        '"I am sorry that I laughed at you," said {b}. "[Will you be my friend?|You are a great racer.|I was too proud.]"'
    )
    end(
        t,
        "slow and steady can win the race",
        "being proud does not help",
        "it is important to keep going",
        feeling="proud",
    )
    t.about("a race", "{a.a} and {b.a} who have a race", "a proud {b.kind}", "a slow {a.kind}", "never giving up")
    t.ask("Who won the race?", "{A} the {a.kind} won the race.")
    t.ask("Why did {b} lose?", "{B} {why}.", "{B} lost because {b.he} {why}.")
    t.ask("Where did the race end?", "The race ended at {goal}.")


def storm(t: Teller, a: Character, place: str) -> None:
    """In a storm the hero lets others in although there is little room."""
    rng = t.rng
    b = friend(rng, a, place)
    c = friend(rng, a, place, apart_from=b)
    t.know(
        b=b,
        c=c,
        kind=rng.choice(
            ["storm", "thunderstorm", "snowstorm" if place in ("mountain", "snow", "forest", "village") else "storm"]
        ),
    )
    t.say(
        "One evening, there came a great {kind}. The wind howled, and the trees bent.",
        "One night, dark clouds came over {p}, and a {kind} began.",
    )
    t.say(
        "{A} sat safe at home. It was small, but it was warm and dry.", "{A} was glad to be at home, where it was warm."
    )
    t.say(
        'Knock, knock! It was {b.full}. "My home is broken," said {b}. "May I come in?"',
        'There was a knock. Outside stood {b.full}, cold and wet. "Please, may I come in?" {b.he} asked.',
    )
    t.say(
        '"Come in, come in," said {a}. "There is room for two."',
        '"Of course," said {a}, and {a.he} gave {b} a warm blanket.',
    )
    t.next()
    t.say(
        'Soon there was another knock. It was {c.full}. "I am so cold," {c.he} said.',
        "They had just sat down when {c.full} came, shaking with cold.",
    )
    t.say('{B} looked around. "It is too small for three," {b.he} whispered.', '"But there is no room left," said {b}.')
    t.say(
        '"If we move closer together, there is room for three," said {a}. So {c} came in, too.',
        '"There is always room for a friend," said {a}, and {c} came in.',
    )
    t.say(
        "They sat close together, told stories and kept each other warm, while the {kind} [raged|roared] outside.",
        "They drank hot tea and sang songs, and soon they forgot the {kind}.",
    )
    t.next()
    t.say("In the morning, the sun was shining again. {B} and {c} thanked {a} and went out into the fresh air.",
          "The next day, the sky was blue. Together the three of them cleaned up and mended what was broken.")  # fmt: skip
    t.say(
        '"A small house with friends is better than a big house alone," said {b}.',
        '"That was the nicest {kind} of my life," laughed {c}.',
    )
    end(
        t,
        "there is always room for a friend",
        "together even a {kind} is not so bad",
        "a small home can have a big heart",
        feeling="warm and happy",
    )
    t.about("a storm", "a {kind}", "{a.a} in a {kind}", "{a.a} who helps in a {kind}", "helping others", "bad weather")
    t.ask("Who came first?", "{B.full} came first.")
    t.ask("Who came to {a}'s home?", "{B.full} and {c.full} came.")
    t.ask("What was the weather like?", "There was a {kind}.")


def thorn(t: Teller, a: Character, place: str) -> None:
    """The hero helps somebody big and feared; later the big one helps the hero."""
    rng = t.rng
    big = [
        k
        for k in ANIMAL_KINDS
        if k.name in ("bear", "lion", "wolf", "tiger", "elephant", "horse", "hippo", "polar bear") and k.name != a.kind
    ]
    same = [k for k in big if place in k.places] or big
    b = being(rng, rng.choice(same), not_like=a)
    t.know(
        b=b,
        trap=rng.choice(
            ["fell into a deep pit", "was caught in a net", "was stuck in deep mud", "was stuck under a fallen branch"]
        ),
    )
    t.say("In the same place lived {b.a} named {b}. Everybody was afraid of {b.him}, because {b.he} was so big and so loud.",
          "Everybody {at} was afraid of {b.full}. {B.he} was very big, and {b.he} roared every night." if b.kind not in ("horse", "elephant") else "Everybody {at} was afraid of {b.full}, because {b.he} was so big and loud.")  # fmt: skip
    t.say(
        "One day, {a} heard {b} cry. [All the others ran away|Nobody else dared to go near], but {a} went to look.",
        "One day, {a} met {b} on the path. {A.he} wanted to run away, but then {a.he} saw that {b} was crying.",
    )
    t.next()
    t.say(
        '"What is wrong?" asked {a} from behind a [tree|bush|rock]. "There is a thorn in my foot," said {b}. "It hurts so much!"'
    )
    t.say(
        '{A} was afraid. But {a.he} felt sorry for {b}. "Hold still," {a.he} said.',
        '"I can pull it out," said {a}, although {a.his} voice was shaking.',
    )
    t.say(
        "{A.he} took the thorn and pulled as hard as {a.he} could. Plop! It came out.",
        "Very gently, {a} pulled out the thorn.",
    )
    t.say('"Thank you, little {a.kind}," said {b}. "I will not forget this."' if a.kind not in ("elephant", "giant", "whale") else '"Thank you," said {b}. "I will not forget this."',
          '"That is so much better," said {b}. "I roared because it hurt, not because I was angry."')  # fmt: skip
    t.next()
    t.say(
        "[Some days|A week] later, {a} {trap}. {A.he} called for help, but {a.he} could not get out.",
        "Not long after, {a} was in trouble. {A.he} {trap} and could not get free.",
    )
    t.say(
        "Then the ground shook. It was {b}! {B.he} freed {a} with one strong pull.",
        "{B} heard {a.him} and came at once. {B.he} was so strong that {a} was free in a moment.",
    )
    t.say(
        '"You helped me, and now I have helped you," said {b}.',
        '"That is what friends are for," said {b} with a smile.',
    )
    end(
        t,
        "you should not judge others by their looks",
        "even the big ones need help sometimes",
        "a good deed is never forgotten",
        feeling="thankful and happy",
    )
    t.about(
        "helping others",
        "{a.a} who helps {b.a}",
        "a thorn",
        "{a.a} and a big {b.kind}",
        "being brave",
        "an unlikely friendship" if rng.random() < 0.3 else "kindness",
    )
    t.ask("What was wrong with {b}?", "{B} had a thorn in {b.his} foot.")
    t.ask("What happened to {a} later?", "{A} {trap}.")
    t.ask("Who freed {a}?", "{B.full} freed {a}.")


PLOTS = (afraid_of_dark, strange_noise, practice, race, storm, thorn)
