"""Plots in which something or somebody is lost, stuck or broken, and found, freed or mended."""

from __future__ import annotations

from .cast import ANIMAL_KINDS, CLOTHES, COLOURS, TOYS, TREASURES, being, friend, thing
from .frame import end, sight
from .grammar import Character, Teller

SPOTS = (
    ("under the bed", "inside"), ("behind the door", "inside"), ("in the big box", "inside"), ("under the table", "inside"),
    ("behind the big tree", "outside"), ("under the bench", "outside"), ("in the tall grass", "outside"),
    ("beside the well", "outside"), ("behind a rock", "outside"), ("under the bushes", "outside"),
)  # fmt: skip


def lost_thing(t: Teller, a: Character, place: str) -> None:
    """A thing is lost, looked for in two wrong places, and found with a friend's help in a third."""
    rng = t.rng
    b = friend(rng, a, place)
    first, second, third = (spot for spot, _ in rng.sample(SPOTS, 3))
    found = thing(rng, *TOYS, *CLOTHES, *TREASURES)
    t.know(b=b, o=found, one=first, two=second, three=third)
    t.say(
        "{A} had {o.a}. It was a [gift|present] from {a.his} [grandmother|grandfather|mother|uncle], and {a.he} took it everywhere.",
        "The thing that {a} loved most was {a.his} {o.full}.",
        "{A} had {o.a}, and {a.he} was very proud of it.",
    )
    t.say(
        "But one [morning|day|afternoon], the {o} was gone.",
        "One [morning|day], {a} woke up and could not find the {o}.",
        "One day, {a} wanted to play with it, but it was not there.",
    )
    t.say('"Oh no! Where is my {o}?" [cried|said|asked] {a}.', '"My {o} is gone!" {a} cried.', "{A} was very sad.")
    t.next()
    t.say(
        "{A.he} looked {one}, but the {o} was not there. {A.he} looked {two}, but it was not there [either|].",
        "First {a} looked {one}. No {o}. Then {a.he} looked {two}. Still no {o}.",
        "{A} looked {one} and {two}, but {a.he} found nothing.",
    )
    t.say(
        "Then {a.his} friend {b.full} came by.",
        "Just then, {b.full} came along.",
        "Soon {a.his} friend {b}, {b.a}, came to visit.",
    )
    t.say('"Why are you [so sad|crying], {a}?" asked {b}.', '"What is wrong?" asked {b}.')
    t.say('"I have lost my {o.full}," said {a}.', '"I cannot find my {o}," {a} said [softly|sadly|].')
    t.say(
        '"Do not worry. I will help you," said {b}. "When did you have it last?"',
        '"Let us look for it together," said {b}. "Where did you play yesterday?"',
    )
    t.next()
    t.say(
        "{A} thought [hard|for a moment]. Then {a.he} remembered. Yesterday, {a.he} had been {three}.",
        '{A} closed {a.his} eyes and thought. "Yesterday I sat {three}!" {a.he} said.',
    )
    t.say(
        "They ran there [together|as fast as they could], and there was the {o.full}!",
        "The two friends went to look, and there it was!",
        "They looked {three}, and there lay the {o}!",
    )
    t.say(
        '"Thank you, {b}!" said {a}, and {a.he} hugged {b.him}.',
        '{A} was so happy that {a.he} [danced|laughed|jumped for joy]. "Thank you, {b}!" {a.he} said.',
    )
    end(t, "it is good to stop and think", "two friends find more than one", "a friend can help when you are sad")
    t.about("a lost {o}", "{a.a} who lost {a.his} {o}", "{a.a} and a lost {o}", "losing something", "a {o}")
    t.ask("What did {a} lose?", "{A} lost {a.his} {o.full}.", "{A.he} lost {a.his} {o.full}.")
    t.ask("Who helped {a}?", "{B.full} helped {a}.", "{A.his} friend {b} helped {a.him}.")
    t.ask("Where was the {o}?", "The {o} was {three}.", "It was {three}.")
    if found.adjective in COLOURS:
        t.ask("What colour was the {o}?", "The {o} was {o.adjective}.")
    else:
        t.ask("What was lost?", "The {o} was lost.")


STUCK = {
    "climb": ("in a tall tree", "climbed up the tree and took it in {b.his} [teeth|arms]", "The wind blew hard, and the {o} flew up into a tall tree."),
    "fly": ("on a high roof", "flew up to the roof and took it down", "The wind took the {o} and carried it up to a high roof."),
    "swim": ("in the middle of the water", "jumped into the water, swam out to it and brought it back", "The {o} rolled down the bank and fell into the water."),
    "dig": ("in a deep, narrow hole", "dug and dug until the hole was wide", "The {o} rolled away and fell into a deep, narrow hole."),
    "tall": ("on a high branch", "stretched {b.his} long neck and took it down", "The wind lifted the {o} onto a high branch."),
    "small": ("in a thorny bush", "crept under the thorns and pulled it out", "The {o} rolled under a big bush full of thorns."),
    "strong": ("under a heavy rock", "pushed the rock away", "A heavy rock came down the hill and stopped on top of the {o}."),
}  # fmt: skip
SKILL_WORDS = {
    "climb": "climb very well", "fly": "fly", "swim": "swim very well", "dig": "dig very fast",
    "tall": "reach very high", "small": "slip through small gaps", "strong": "push very hard",
}  # fmt: skip
STUCK_TRIES = {
    "climb": "{A} tried to climb up, but {a.he} slid down again.", "fly": "{A} jumped as high as {a.he} could, but the roof was too high.",
    "swim": "{A} tried to reach it with a stick, but the stick was too short.", "dig": "{A} reached into the hole, but {a.he} could not get it.",
    "tall": "{A} jumped and jumped, but the branch was too high.", "small": "{A} tried to reach it, but the thorns were sharp.",
    "strong": "{A} pushed with all {a.his} strength, but the rock did not move.",
}  # fmt: skip


def stuck_thing(t: Teller, a: Character, place: str) -> None:
    """A toy is stuck where the hero can't reach; a friend with the right skill gets it back."""
    rng = t.rng
    skill = rng.choice([s for s in STUCK if s not in a.skills and not (s in ("climb", "tall") and "fly" in a.skills)])
    b = friend(rng, a, place, skill)
    spot, deed, accident = STUCK[skill]
    t.know(
        b=b,
        o=thing(rng, "ball", "kite", "hat", "scarf", "teddy", "doll", "ribbon", "cap"),
        spot=spot,
        can=SKILL_WORDS[skill],
    )
    t.know(deed=t.fill(deed))
    t.say("One [sunny|windy|warm|bright] [day|morning|afternoon], {a} was playing with {a.his} {o.full} {at}.",
          "One day, {a} took {a.his} {o.full} to {p}.")  # fmt: skip
    sight(t, place)
    t.say(f"[Suddenly, |All at once, |]{accident}" if not accident.startswith("The") else accident)
    t.say('"Oh no!" [cried|said] {a}. "My {o} is stuck!"', '"My {o}!" cried {a}. "How can I get it back?"')
    t.next()
    t.say(STUCK_TRIES[skill] + " [|{A.he} tried again, but it was no use.|{A.he} sat down and sighed.]")
    t.say(
        "{B.full} [saw|heard] {a.him} and came over.",
        "Then {b.full} came by.",
        "Not far away lived {b.a} named {b}. {B.he} came to see what was wrong.",
    )
    t.say(
        '"Can you help me, please?" asked {a}. "My {o} is {spot}."',
        '"Please help me," said {a}. "My {o} is {spot}, and I cannot reach it."',
    )
    t.say(
        '"Of course I can," said {b}. "I can {can}."',
        '"Yes," said {b}. "I can {can}. Watch me!"',
        '"Do not cry," said {b}. "I can {can}."',
    )
    t.say("{B} {deed}. Then {b.he} gave the {o} back to {a}.", "{B} {deed}. Soon {a} had {a.his} {o} again.")
    t.next()
    t.say('"Thank you so much!" said {a}. "[You are a good friend|You are so kind|I could not do that alone]."',
          "{A} thanked {b} and [smiled|hugged {b.him}|danced with joy].")  # fmt: skip
    t.say(
        "They played [together|with the {o}] until [the sun went down|it was dark|it was time for dinner].",
        "After that, {a} and {b} played together every day.",
    )
    end(t, "everybody is good at something", "it is all right to ask for help", "friends can do more together")
    t.about("a {o} that was stuck", "asking for help", "{a.a} and {b.a}", "{a.a} with {o.a}")
    t.ask("What happened to the {o}?", "The {o} was stuck {spot}.")
    t.ask("Who helped {a}?", "{B.full} helped {a}.", "{A} got help from {b.full}.")
    t.ask("How did {b} help?", "{B} {deed}.")


def lost_way(t: Teller, a: Character, place: str) -> None:
    """The hero is lost, stays calm, follows a sign and comes home."""
    rng = t.rng
    sign, how = rng.choice([
        ("the sound of the river", "The river runs past my home"), ("a bright star", "That star stands over my home"),
        ("a thin line of smoke", "That smoke comes from my home"), ("the sound of a bell", "That bell hangs near my home"),
        ("{a.his} own footprints", "My footprints lead back home"), ("a little light", "That is the light in our window"),
    ])  # fmt: skip
    lure = rng.choice(
        ["a butterfly", "a yellow bird", "a hopping frog", "a shiny beetle", "a floating feather", "the sound of music"]
    )
    t.know(
        sign=t.fill(sign),
        how=how,
        lure=lure,
        gone=lure.replace("the sound of music", "the music").replace("a ", "the ", 1),
    )
    t.say(
        "One [day|morning|afternoon], {a} followed {lure}. {A.he} went farther and farther away from home.",
        "One [evening|afternoon], {a} went for a walk {at}. {A.he} followed {lure} and did not look at the path.",
    )
    sight(t, place, 0.3)
    t.say(
        "When {a.he} stopped, {a.he} did not know where {a.he} was.",
        "Then {gone} was gone, and {a} looked around. Everything looked [strange|new|different].",
    )
    t.say('"Oh no, I am lost," [said|whispered] {a}.', '"Which way is home?" {a} asked, but nobody answered.')
    t.next()
    t.say(
        "It grew dark, and {a} was [afraid|scared]. {A.he} wanted to cry.",
        "The sun went down. {A} felt very small and [alone|scared].",
    )
    t.say("But then {a} remembered what {a.his} mother had told {a.him}: \"If you are lost, stay calm, and look and listen.\"",
          "Then {a.he} took a deep breath. \"I must stay calm,\" {a.he} said to {a.himself}.")  # fmt: skip
    t.say(
        "{A.he} looked and listened. After a while, {a.he} noticed {sign}.",
        "{A} sat very still. Then {a.he} noticed {sign}.",
    )
    t.say('"{how}!" said {a}.')
    t.next()
    t.say(
        "{A.he} followed it [slowly|step by step|carefully], and soon {a.he} saw {a.his} home.",
        "Step by step, {a} followed it, and at last {a.he} was home.",
    )
    t.say('{A.his} mother [ran out|was waiting]. "There you are!" she said, and she [hugged {a} tightly|gave {a} a big hug].',
          '"We were so worried!" said {a.his} father, and he hugged {a.him}.')  # fmt: skip
    t.maybe(0.5, "They had [warm soup|hot tea|{a.food}] for dinner, and {a} told them everything.")
    end(
        t,
        "it helps to stay calm",
        "you should always watch the path",
        "being calm is the first step home",
        feeling="safe and happy",
    )
    t.about("getting lost", "{a.a} who got lost", "being lost {at}", "{a.a} who finds the way home")
    t.ask("Why did {a} get lost?", "{A} followed {lure} and did not watch the path.")
    t.ask("How did {a} find the way home?", "{A} followed {sign}.", "{A.he} noticed {sign} and followed it.")


def lost_baby(t: Teller, a: Character, place: str) -> None:
    """The hero finds a lost little animal and brings it back to its mother."""
    rng = t.rng
    kinds = [k for k in ANIMAL_KINDS if place in k.places and k.name not in (a.kind, "kitten", "puppy")]
    kinds = kinds or [k for k in ANIMAL_KINDS if k.name in ("duck", "rabbit", "mouse", "bird")]
    kind = rng.choice([k for k in kinds if k.name != a.kind])
    b = being(rng, kind, not_like=a)
    helper = friend(rng, a, place)
    t.know(
        b=b,
        c=helper,
        mark=rng.choice(
            ["a white spot", "a long tail", "a soft voice", "a brown ear", "big dark eyes", "a blue ribbon"]
        ),
    )
    t.say(
        "One [day|morning|evening], {a} heard a [small|tiny|soft] voice {at}. Somebody was crying.",
        "One [day|afternoon], {a} was walking {at} when {a.he} heard somebody cry.",
    )
    t.say(
        "It was a baby {b.kind}, all alone[ under a leaf| behind a stone|].",
        "{A.he} looked around and found a baby {b.kind}.",
    )
    t.say('"Why are you crying?" asked {a}.', '"Hello, little one. What is wrong?" asked {a}.')
    t.say(
        '"I have lost my mother," said the baby {b.kind}. "{how}"'.replace(
            "{how}", rng.choice(["I want to go home.", "I cannot find her.", "I am so alone."])
        )
    )
    t.next()
    t.say(
        '"Do not be afraid. We will find her," said {a}. "What does she look like?"',
        '"I will help you," said {a}. "Tell me what your mother looks like."',
    )
    t.say('"She has {mark}," said the baby {b.kind}.')
    t.say("They walked together and asked {c.full}. \"Have you seen {b.a} with {mark}?\" asked {a}.",
          "On the way they met {c.full}. \"We are looking for {b.a} with {mark},\" said {a}.")  # fmt: skip
    t.say(
        '"Yes, I have," said {c}. "She is [near the big tree|on the other side of the hill|behind those bushes]. She is looking for her baby!"'
    )
    t.next()
    t.say("They hurried on, and there she was. The baby {b.kind} ran to its mother.",
          '"Mama!" cried the baby {b.kind}, and it ran to its mother.')  # fmt: skip
    t.say(
        '"Thank you for bringing my baby back," the mother said to {a}. "You have a good heart."',
        'The mother was so happy that she cried. "Thank you, kind {a.kind}," she said.',
    )
    t.say("{A} walked home with a warm feeling inside.", "{A} waved goodbye and went home with a smile.")
    end(
        t,
        "helping others makes you happy",
        "a kind heart is a great treasure",
        "even a small kindness can be very big",
        feeling="happy and proud",
    )
    t.about("helping others", "a lost baby {b.kind}", "{a.a} who helps a baby {b.kind}", "kindness")
    t.ask("Who was lost?", "A baby {b.kind} was lost.")
    t.ask("What did the mother look like?", "She had {mark}.", "The mother had {mark}.")
    t.ask("Who had seen the mother?", "{C.full} had seen her.")


def broken_thing(t: Teller, a: Character, place: str) -> None:
    """Something breaks by accident; the hero tells the truth, is forgiven, and mends it."""
    rng = t.rng
    owner = rng.choice(
        ["mother", "grandmother", "father", "grandfather", "teacher" if a.kind in ("girl", "boy") else "aunt"]
    )
    t.know(who=owner, o=thing(rng, "cup", "vase", "plate", "bowl", "lamp", "clock", "pot", "jar", "teapot"),
           he="she" if owner in ("mother", "grandmother", "aunt", "teacher") else "he")  # fmt: skip
    t.say(
        "In the kitchen stood {o.a}. It belonged to {a.his} {who}.",
        "{A.his} {who} had {o.a}, and {he} loved it very much.",
    )
    t.say("One [rainy |]day, {a} was [playing|running|dancing] inside, [although it was not allowed|and {a.he} was not careful]. Crash! The {o} fell down and broke.",
          "One afternoon, {a} played with a ball inside. The ball hit the {o}, and it broke.")  # fmt: skip
    t.say(
        '{A.his} heart beat fast. "What shall I do?" {a.he} thought.', '"Oh no," whispered {a}. "{HE} will be so sad."'
    )
    t.next()
    t.say("First {a} hid the pieces [under the bed|in a box|behind the curtain]. But {a.he} felt [bad|worse and worse], and {a.he} could not eat {a.his} dinner.",
          "{A} wanted to hide the pieces and say nothing. But there was a [cold|heavy] feeling in {a.his} tummy.")  # fmt: skip
    t.say("At last {a.he} went to {a.his} {who}. \"I am sorry,\" {a.he} said. \"I broke the {o.full}. It was my fault.\"",
          'So {a} took a deep breath and told the truth. "I broke your {o.full}," {a.he} said. "I am very sorry."')  # fmt: skip
    t.say(
        "{A.his} {who} was quiet for a moment. Then {he} [smiled|took {a} in {his_} arms].".replace(
            "{his_}", "her" if str(t.state["he"]) == "she" else "his"
        )
    )
    t.say(
        '"I am sad about the {o}," {he} said, "but I am glad that you told me the truth."',
        '"Thank you for telling me," {he} said. "A {o} can be mended. The truth is worth more."',
    )
    t.next()
    t.say(
        "Together they glued the pieces. The {o} had [a few|some] cracks, but it was [still beautiful|whole again].",
        "They took some glue and mended the {o} together, piece by piece.",
    )
    t.say(
        "{A} felt as light as a feather.",
        "Now {a} could laugh again.",
        "That evening, {a} ate two big plates of {a.food}.",
    )
    end(
        t,
        "it is always best to tell the truth",
        "telling the truth takes courage",
        "a mistake is easier to carry when you tell the truth",
        feeling="light and happy",
    )
    t.about("telling the truth", "being honest", "{a.a} who broke a {o}", "a broken {o}", "honesty")
    t.ask("What did {a} break?", "{A} broke {o.a}.", "{A.he} broke the {o.full}.")
    t.ask("What did {a} do then?", "{A} told the truth and said sorry.")
    t.ask("How was the {o} mended?", "They glued the pieces together.")


PLOTS = (lost_thing, stuck_thing, lost_way, lost_baby, broken_thing)
