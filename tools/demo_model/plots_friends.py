"""Plots about friends: sharing, quarrels, somebody new, a birthday, an illness, too much of a good thing."""

from __future__ import annotations

from .cast import friend, thing
from .frame import end, sight
from .grammar import Character, Teller

TREATS = (
    ("a big red apple", "apple"), ("a warm loaf of bread", "bread"), ("a basket of berries", "berries"),
    ("a sweet pear", "pear"), ("a piece of cake", "cake"), ("a bag of nuts", "nuts"), ("a round pie", "pie"),
    ("a bowl of soup", "soup"), ("a jar of honey", "honey"), ("a plate of pancakes", "pancakes"),
)  # fmt: skip
MANY = {"berries", "nuts", "pancakes"}


def sharing(t: Teller, a: Character, place: str) -> None:
    """The hero has one treat, meets somebody hungry and shares it; later the kindness comes back."""
    rng = t.rng
    b = friend(rng, a, place)
    treat, short = rng.choice(TREATS)
    t.know(b=b, treat=treat, short=short, them="them" if short in MANY else "it", gift=rng.choice(
        ["a bag of sweet plums", "a warm blanket", "a little wooden flute", "a bunch of flowers", "a shiny stone", "a pot of hot tea"]))  # fmt: skip
    t.say("One [cold|sunny|quiet] [day|morning], {a} had {treat}. {A.he} was very hungry and sat down {at} to eat.",
          "One [day|afternoon], {a.his} mother gave {a} {treat}. {A} took {them} to {p} and found a nice place to sit.")  # fmt: skip
    sight(t, place)
    t.say("Just as {a} was about to eat, {b.full} came along. {B.he} looked [tired|thin|sad] and hungry.",
          "Then {a.he} saw {b.a} under a tree. It was {b}, and {b.he} looked very hungry.")  # fmt: skip
    t.next()
    t.say(
        '"I have not eaten all day," said {b}.',
        '"I have nothing to eat today," said {b} [quietly|sadly|].',
        '"That smells so good," said {b} in a small voice.',
    )
    t.say("{A} looked at the {short}. {A.he} wanted to eat all of {them}. But then {a.he} looked at {b} again.",
          "{A} thought about it. There was not much, and {a.he} was hungry too.")  # fmt: skip
    t.say(
        '"Come and sit with me," said {a}. "We can share the {short}."',
        '"You can have half," said {a}, and {a.he} gave {b} half of the {short}.',
    )
    t.say("So they sat side by side and ate. The {short} tasted [wonderful|very good|better than ever].",
          '"Thank you," said {b}. "This is the best {short} I have ever had."' if short not in MANY else '"Thank you," said {b}. "These are the best {short} I have ever had."')  # fmt: skip
    t.next()
    t.say("A few days later, {a} was the one who was sad. There was a knock, and there stood {b} with {gift}.",
          "The next day, {b} came to visit {a}. {B.he} brought {gift}.", "A week later, it rained all day, and {a} sat at home alone. Then {b} came with {gift}.")  # fmt: skip
    t.say(
        '"This is for you, because you shared with me," said {b}.',
        '"You were kind to me," said {b}. "Now I want to be kind to you."',
    )
    t.say(
        "{A} and {b} became [the best of friends|very good friends].",
        "From then on, the two were always together.",
        "They laughed and talked until the stars came out.",
    )
    end(
        t,
        "sharing makes everything better",
        "kindness always comes back",
        "a shared meal is the best meal",
        "when you share, you win a friend",
    )
    t.about("sharing", "being kind", "{a.a} who shares {a.his} {short}", "{a.a} and a hungry {b.kind}", "kindness")
    t.ask("What did {a} share?", "{A} shared {a.his} {short}.", "{A.he} shared {treat}.")
    t.ask("Who was hungry?", "{B.full} was hungry.")
    t.ask("What did {b} bring?", "{B} brought {gift}.")


def quarrel(t: Teller, a: Character, place: str) -> None:
    """Two friends quarrel over a thing, are lonely, say sorry and find a way to use it together."""
    rng = t.rng
    b = friend(rng, a, place)
    t.know(b=b, o=thing(rng, "ball", "kite", "drum", "wagon", "boat", "puzzle", "book", "hoop", "swing", "rope"))
    t.say(
        "{A.his} best friend was {b.full}. They [did everything together|played together every day].",
        "{A} had a good friend. {B.his} name was {b}, and {b.he} was {b.a}.",
    )
    t.say(
        "One [day|morning], they found {o.a} {at}.",
        "One [day|morning], the two friends were playing {at} when they saw {o.a} in the grass."
        if place not in ("sea", "snow", "desert", "beach", "space")
        else "One day, the two friends found {o.a} {at}.",
    )
    t.say('"It is mine! I saw it first!" said {a}.', '"I want it!" said {a}.')
    t.say('"No, it is mine!" [shouted|said|cried] {b}.', '"No, I saw it first!" [shouted|said|cried] {b}.')
    t.say("They pulled and pulled, and both of them were [angry|very angry]. {B} went home without a word, and so did {a}.",
          "They shouted at each other. Then {b} ran away, and {a} stayed behind with the {o}.")  # fmt: skip
    t.next()
    t.say(
        "But playing alone was no fun. {A} [sat down|looked at the sky] and [sighed|felt sad].",
        "At home it was very quiet. {A} missed {b}. {B} missed {a}, too.",
    )
    t.say(
        '"A {o} is only a {o}," thought {a}, "but {b} is my friend."',
        '{A} thought, "I was not fair. I should say sorry."',
    )
    t.say(
        'The next [morning|day], {a} went to see {b}. "I am sorry that I shouted," {a.he} said.',
        'So {a} went to {b}. "I am sorry," said {a}. "I was not nice to you."',
    )
    t.say(
        '"I am sorry, too," said {b}[ with tears in {b.his} eyes|]. "Shall we share the {o}?"',
        '"I am sorry, too," said {b}. "We can use the {o} together."',
    )
    t.next()
    t.say(
        "So they took turns. First {a} had the {o}, and then {b}. It was [much more|twice the] fun.",
        "They played with the {o} together all day, and they laughed a lot.",
    )
    t.say(
        "In the evening they [watched the sun go down|walked home side by side].",
        "And they never fought about it again.",
    )
    end(t, "a friend is worth more than a toy" if str(t.state["o"]) not in ("book", "rope") else "a friend is worth more than any thing",
        "saying sorry can mend a friendship", "taking turns is better than fighting", "it is more fun to play together")  # fmt: skip
    t.about(
        "two friends who fight",
        "saying sorry",
        "{a.a} and {b.a} who fight over a {o}",
        "friendship",
        "two friends",
        "taking turns",
    )
    t.ask("What did they fight about?", "They fought about {o.a}.")
    t.ask("Who said sorry first?", "{A} said sorry first.")
    t.ask("How did they solve the problem?", "They said sorry and took turns with the {o}.", "They shared the {o}.")


def new_friend(t: Teller, a: Character, place: str) -> None:
    """Somebody new is shy; the hero asks them to join in."""
    rng = t.rng
    b = friend(rng, a, place)
    game = rng.choice(["hide and seek", "catch", "jumping over stones", "ball", "tag", "making a tower of stones"])
    t.know(
        b=b,
        game=game,
        gift=rng.choice(
            [
                "a yellow flower",
                "a pretty shell",
                "a warm roll",
                "a round stone",
                "a small drawing",
                "two sweet berries",
            ]
        ),
    )
    t.say(
        "One day, somebody new came to {p}. It was {b}, {b.a}.",
        "One morning, a new neighbour came to {p}. {B.his} name was {b}, and {b.he} was {b.a}.",
    )
    t.say(
        "{B} was very shy. {B.he} sat alone and [looked at the ground|did not say a word].",
        "{B} did not know anybody there, and {b.he} stood alone at the side.",
    )
    t.say("The others were playing {game}, but nobody asked {b} to play.", "Everybody else was busy with {game}.")
    t.next()
    t.say('{A} saw it. "It must be hard to be new," {a.he} thought.', "{A} remembered how it felt to be alone.")
    t.say("{A.he} went to {b} and gave {b.him} {gift}. \"Hello, I am {a}. Do you want to play {game} with us?\""
          if not game.startswith(("making", "jumping")) else "{A.he} went to {b} and gave {b.him} {gift}. \"Hello, I am {a}. Do you want to play with us?\"")  # fmt: skip
    t.say(
        '{B} looked up. "I do not know how," {b.he} whispered.',
        '{B} smiled a little. "But I have never played it," {b.he} said.',
    )
    t.say('"That is all right. I will show you," said {a}.', '"It is easy! I can teach you," said {a}.')
    t.next()
    t.say(
        "So {a} showed {b} the game, and soon {b} was laughing with all the others.",
        "At first {b} was slow, but soon {b.he} was [as good as the others|laughing and playing with everybody].",
    )
    t.say(
        '"Will you come again tomorrow?" asked {a}. "Yes!" said {b}[, and {b.his} eyes shone|].',
        '"Thank you for asking me," said {b}. "Now I have a friend."',
    )
    t.say("After that, {a} and {b} met every day.", "That was the beginning of a long friendship.")
    end(
        t,
        "one kind word can change a day",
        "a new friend is only one hello away",
        "nobody should be left alone",
        "it is good to be kind to somebody new",
    )
    t.about(
        "making a new friend",
        "a new neighbour",
        "{a.a} who makes a new friend",
        "a shy {b.kind}",
        "friendship",
        "being kind",
    )
    t.ask("Who was new?", "{B.full} was new.", "The new one was {b.full}.")
    t.ask("What did {a} give to {b}?", "{A} gave {b} {gift}.")
    t.ask("What game did they play?" if not game.startswith(("making", "jumping")) else "What did they do together?",
          "They played {game}." if not game.startswith(("making", "jumping")) else "They had fun {game}.")  # fmt: skip


def birthday(t: Teller, a: Character, place: str) -> None:
    """The hero believes that everybody forgot the birthday; it is a surprise party."""
    rng = t.rng
    b = friend(rng, a, place)
    c = friend(rng, a, place, apart_from=b)
    t.know(b=b, c=c, cake=rng.choice(["a carrot cake", "a chocolate cake", "a lemon cake", "a berry cake", "a cake with nuts", "an apple cake"]),
           gift=rng.choice(["a blue kite", "a soft pillow", "a new hat", "a little drum", "a picture book", "a silver bell"]))  # fmt: skip
    t.say(
        "It was {a}'s birthday. {A.he} woke up early and was very excited.",
        'One morning, {a} jumped out of bed. "Today is my birthday!" {a.he} sang.',
    )
    t.say("{A.he} went to see {a.his} friend {b.full}. But {b} said, \"I am sorry, I have no time today.\"",
          'First {a} met {b.full}. "Hello, {a}," said {b}. "I am very busy today. Goodbye!"')  # fmt: skip
    t.say(
        "Then {a.he} went to {c.full}, but {c} was not at home.",
        "Then {a} met {c.full}, but {c.he} hurried past and did not stop.",
    )
    t.next()
    t.say(
        '"They have all forgotten my birthday," thought {a}, and a tear ran down {a.his} cheek.',
        '"Nobody remembers my birthday," {a} said sadly.',
    )
    t.say(
        "[Slowly|Sadly], {a.he} walked home. It was strangely quiet there, and it was dark inside.",
        "In the evening, {a} went home with a heavy heart. {A.he} opened the door. It was all dark.",
    )
    t.say(
        'Suddenly there was a light. "Surprise!" [called|shouted] many voices.',
        'Then the lights went on. "Surprise! Happy birthday!" everybody shouted.',
    )
    t.next()
    t.say("There were {b} and {c} and all {a.his} friends. They had made {cake}, and there were [paper flowers|colourful lights|balloons] everywhere.",
          "{B} held {cake}, {c} had {gift}, and everybody was singing.")  # fmt: skip
    t.say(
        '"We were busy all day to get it ready," said {b}. "We could never forget you!"',
        '"Did you think that we had forgotten?" laughed {c}. "We only wanted to surprise you!"',
    )
    t.say(
        "{A} laughed and cried at the same time. They ate cake and danced until late.",
        "{A} got {gift}, and they [sang|danced|played games] until the moon was high.",
    )
    end(
        t,
        "good friends do not forget you",
        "a surprise takes time",
        "true friends always think of you",
        feeling="very happy and loved",
    )
    t.about("a birthday", "a birthday party", "a surprise", "a surprise party", "{a.a} and {a.his} birthday")
    t.ask("Why was {a} sad?", "{A} thought that everybody had forgotten {a.his} birthday.")
    t.ask("What kind of cake was there?", "There was {cake}.", "It was {cake}.")
    t.ask("What was the surprise?", "{A.his} friends had made a party for {a.him}.")


def sick_friend(t: Teller, a: Character, place: str) -> None:
    """A friend is ill; the hero gives up an outing and takes care."""
    rng = t.rng
    b = friend(rng, a, place)
    t.know(b=b, food=rng.choice(["hot soup", "tea with honey", "warm milk", "apple soup", "vegetable soup"]),
           fair=rng.choice(["the fair", "the summer party", "the big race", "the puppet show", "the music evening"]),
           fun=rng.choice(["told funny stories", "sang quiet songs", "read from a book", "made shadow animals on the wall"]))  # fmt: skip
    t.say(
        "{A} and {a.his} friend {b.full} wanted to go to {fair}.",
        "Today was {fair}, and {a} could hardly wait. {A.he} wanted to go there with {a.his} friend {b.full}.",
    )
    t.say(
        "But when {a} came to {b}'s home, {b} was in bed. {B.his} nose was red and {b.his} head was hot.",
        "But {b} did not come. So {a} went to look for {b.him}, and there was {b}, sick in bed.",
    )
    t.say(
        '"I cannot come," said {b} in a weak voice. "You should go without me."',
        '"I feel ill," said {b}. "Go and have fun, {a}."',
    )
    t.next()
    t.say(
        "{A} [thought for a moment|looked out of the window]. {A.he} could hear the music far away.",
        "{A} really wanted to see {fair}.",
    )
    t.say(
        '"No," {a.he} said. "I will stay here with you."',
        'But then {a.he} said, "It is no fun without you. I will stay."',
    )
    t.say("{A.he} made {food} and [put a soft pillow under {b.his} head|covered {b} with a blanket]. Then {a.he} {fun}, and {b} [had to smile|felt a little better].",
          "{A} cooked {food} for {b.him}. After that, {a.he} {fun} until {b} fell asleep.")  # fmt: skip
    t.next()
    t.say(
        "[After two days|The next morning], {b} was well again.",
        "In the morning, the fever was gone, and {b} could get up.",
    )
    t.say(
        '"You missed {fair} because of me," said {b}. "That does not matter," said {a}. "You matter to me."',
        '"Thank you for taking care of me," said {b}. "You are the best friend in the world."',
    )
    t.say(
        "And then they made their own little party[ under the trees| at home|], only for the two of them.",
        "Then the two friends went outside together and danced.",
    )
    end(
        t,
        "friends take care of each other",
        "being there for a friend is better than any party",
        "good care is the best medicine",
    )
    t.about("a sick friend", "taking care of a friend", "{a.a} who takes care of {b.a}", "friendship", "helping others")
    t.ask("Who was sick?", "{B.full} was sick.")
    t.ask("What did {a} make for {b}?", "{A} made {food}.")
    t.ask("Where did they want to go?", "They wanted to go to {fair}.")


def greedy(t: Teller, a: Character, place: str) -> None:
    """The hero takes too much, loses it all or gets a stomach ache, and learns."""
    rng = t.rng
    b = friend(rng, a, place)
    fruit = rng.choice(
        ["apples", "plums", "pears", "cherries", "nuts", "strawberries", "oranges", "cookies", "sweet buns"]
    )
    where = "on a table" if fruit in ("cookies", "sweet buns") else "in a basket"
    t.know(b=b, fruit=fruit, where=where)
    t.say(
        'One day, {a} found many {fruit} {where}. There was a sign that said, "For everybody. Please take one."',
        'One day, there were {fruit} for everybody {at}. "Please take only two each," said the sign.',
    )
    t.say(
        'But {a} [thought|said to {a.himself}], "If I am quick, I can have them all!"',
        'But {a} did not want only a few. "I want them all," {a.he} said.',
    )
    if rng.random() < 0.5:
        t.say("{A.he} put all the {fruit} into {a.his} bag, more and more, until it was [full|very heavy].")
        t.next()
        t.say('On the way home, {a} met {b.full}. "May I have one?" asked {b}. "No, they are mine," said {a}.')
        t.say(
            "But the bag was too full. Suddenly it broke, and all the {fruit} [rolled down the hill|fell into the mud|rolled into the river]."
        )
        t.say('{A} [sat down and cried|could not believe it]. "Now I have nothing," {a.he} said.')
        t.say(
            '{B} came back. "[Do not be sad, you can have some of mine|I have something here, and you can have half of it]," {b.he} said, and {b.he} sat down beside {a}.'
        )
        t.ask("What happened to the {fruit}?", "The bag broke and the {fruit} were gone.")
    else:
        t.say("{A.he} ate one, and another, and another, until there were no {fruit} left.")
        t.next()
        t.say(
            'Then {a.his} tummy began to hurt. {A} lay down and [groaned|held {a.his} tummy]. "Ouch, ouch," {a.he} said.'
        )
        t.say('{B.full} came by. "What is wrong?" asked {b}. "I ate all the {fruit}, and now I feel sick," said {a}.')
        t.say('"And there are none left for us," said {b}. {A} felt very [sorry|ashamed].')
        t.say("{B} brought {a} some [warm tea|water] and stayed with {a.him} until {a.he} felt better.")
        t.ask("Why did {a} feel sick?", "{A} ate too many {fruit}.", "{A} ate all the {fruit}.")
    t.next()
    t.say(
        '"I am sorry that I wanted everything," said {a}. "Next time I will share."',
        '"You are kind, although I was greedy," said {a}. "I am sorry."',
    )
    t.say(
        "The next day, {a} brought new {fruit} and gave [some|most] of them to the others.",
        "After that, {a} only took what {a.he} needed.",
    )
    end(
        t,
        "it is better to share than to have it all",
        "too much of a good thing is not good",
        "greedy hands end up empty",
        feeling="sorry, but also glad",
    )
    t.about("being greedy", "a greedy {a.kind}", "{a.a} who wanted all the {fruit}", "sharing")
    t.ask("What did {a} find?", "{A} found many {fruit}.")


PLOTS = (sharing, quarrel, new_friend, birthday, sick_friend, greedy)
