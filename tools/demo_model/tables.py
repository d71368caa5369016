"""The tables of simple facts: what the model can know, one row each."""

# ruff: noqa: E501 - tables of words and sentences
from __future__ import annotations

# singular | plural | eat | live | say or do | young | one more fact | legs
ANIMALS = """
llama|llamas|grass, hay and leaves|on farms and in the mountains of South America|hum|cria|They have soft wool and long necks, and they carry heavy bags.|four
dog|dogs|meat and dog food|with people, in houses and on farms|bark|puppy|They are loyal and love to play.|four
cat|cats|fish, mice and cat food|with people, in houses and on farms|meow|kitten|They like to sleep and to climb.|four
cow|cows|grass and hay|on farms|moo|calf|They give us milk.|four
horse|horses|grass, hay and oats|on farms and in stables|neigh|foal|They can run very fast.|four
sheep|sheep|grass|on farms and on hills|bleat|lamb|They give us wool.|four
goat|goats|grass, leaves and hay|on farms and in the mountains|bleat|kid|They are good at climbing.|four
pig|pigs|corn, roots and fruit|on farms|oink|piglet|They like to roll in the mud.|four
hen|hens|corn, seeds and worms|on farms|cluck|chick|They lay eggs.|two
duck|ducks|water plants, seeds and small insects|near ponds and rivers|quack|duckling|They can swim and fly.|two
goose|geese|grass and seeds|near ponds and on farms|honk|gosling|They fly south in winter.|two
rabbit|rabbits|grass, leaves and carrots|in burrows under the ground|make very little sound|kit|They have long ears and can hop.|four
mouse|mice|seeds, grain and cheese|in small holes in houses and fields|squeak|pup|They are very small and quick.|four
fox|foxes|mice, birds and berries|in dens in the forest|bark|cub|They have a bushy tail.|four
wolf|wolves|meat|in the forest, in groups called packs|howl|pup|They live and hunt together.|four
bear|bears|berries, fish and honey|in the forest and in the mountains|growl|cub|They sleep through the winter.|four
deer|deer|grass, leaves and bark|in the forest|make quiet sounds|fawn|They can run and jump very well.|four
squirrel|squirrels|nuts and seeds|in trees|chatter|kit|They hide nuts for the winter.|four
hedgehog|hedgehogs|insects, worms and snails|in gardens and hedges|snuffle|hoglet|They roll up into a ball when they are afraid.|four
owl|owls|mice and small birds|in old trees and barns|hoot|owlet|They hunt at night and see very well.|two
frog|frogs|flies and other insects|near ponds|croak|tadpole|They can jump very far.|four
fish|fish|small water animals and plants|in rivers, lakes and the sea|make no sound|fry|They breathe under water.|no
bee|bees|nectar and pollen|in hives|buzz|larva|They make honey.|six
ant|ants|seeds, leaves and crumbs|in nests under the ground|make no sound|larva|They are very strong for their size.|six
spider|spiders|flies and other insects|in webs|make no sound|spiderling|They spin webs.|eight
butterfly|butterflies|nectar from flowers|in gardens and meadows|make no sound|caterpillar|They have colourful wings.|six
snail|snails|leaves and lettuce|in gardens|make no sound|hatchling|They carry their house on their back.|no
turtle|turtles|plants, fruit and small animals|on land and in the water|make very little sound|hatchling|They have a hard shell.|four
snake|snakes|mice, eggs and frogs|in forests, fields and deserts|hiss|hatchling|They have no legs.|no
lion|lions|meat|on the plains of Africa|roar|cub|They live in groups called prides.|four
tiger|tigers|meat|in the forests of Asia|roar|cub|They have black stripes.|four
elephant|elephants|grass, leaves and fruit|in Africa and Asia|trumpet|calf|They have a long trunk and big ears.|four
giraffe|giraffes|leaves from tall trees|on the plains of Africa|make quiet sounds|calf|They have very long necks.|four
zebra|zebras|grass|on the plains of Africa|bark|foal|They have black and white stripes.|four
monkey|monkeys|fruit, leaves and nuts|in the jungle|chatter|infant|They are good at climbing.|four
panda|pandas|bamboo|in the mountains of China|make quiet sounds|cub|They are black and white.|four
koala|koalas|leaves of gum trees|in Australia|grunt|joey|They sleep most of the day.|four
kangaroo|kangaroos|grass and leaves|in Australia|make quiet sounds|joey|They carry their young in a pouch.|four
penguin|penguins|fish|in the cold south, near the sea|squawk|chick|They cannot fly, but they swim very well.|two
polar bear|polar bears|seals and fish|in the Arctic|growl|cub|They have thick white fur.|four
camel|camels|dry grass and thorny plants|in the desert|grunt|calf|They have humps and need little water.|four
whale|whales|tiny shrimps and fish|in the sea|sing|calf|They are the biggest animals in the world.|no
dolphin|dolphins|fish|in the sea|whistle and click|calf|They are very clever and love to jump.|no
seal|seals|fish|near the sea|bark|pup|They swim very well.|no
shark|sharks|fish and other sea animals|in the sea|make no sound|pup|They have many sharp teeth.|no
octopus|octopuses|crabs and fish|in the sea|make no sound|larva|They have eight arms.|no
parrot|parrots|fruit, nuts and seeds|in warm forests|squawk|chick|Some of them can learn to speak words.|two
crow|crows|seeds, insects and fruit|in trees, in fields and in towns|caw|chick|They are very clever birds.|two
bird|birds|seeds, insects and berries|in nests in the trees|sing|chick|They have wings and feathers.|two
chicken|chickens|corn, seeds and worms|on farms|cluck|chick|They lay eggs.|two
donkey|donkeys|grass and hay|on farms|bray|foal|They are patient and strong.|four
beaver|beavers|bark, leaves and water plants|in rivers and ponds|slap the water with their tails|kit|They build dams.|four
otter|otters|fish and crabs|in rivers and the sea|whistle|pup|They love to slide and play.|four
crocodile|crocodiles|fish, birds and meat|in warm rivers|growl|hatchling|They have strong jaws.|four
swan|swans|water plants|on lakes and rivers|hiss and honk|cygnet|They have long white necks.|two
"""

CAPITALS = """
France|Paris
Germany|Berlin
Italy|Rome
Spain|Madrid
Portugal|Lisbon
England|London
the United Kingdom|London
Ireland|Dublin
Austria|Vienna
Switzerland|Bern
Belgium|Brussels
the Netherlands|Amsterdam
Denmark|Copenhagen
Sweden|Stockholm
Norway|Oslo
Finland|Helsinki
Poland|Warsaw
Greece|Athens
Turkey|Ankara
Russia|Moscow
Ukraine|Kyiv
Hungary|Budapest
Romania|Bucharest
Bulgaria|Sofia
the Czech Republic|Prague
Croatia|Zagreb
Iceland|Reykjavik
Egypt|Cairo
Kenya|Nairobi
Morocco|Rabat
China|Beijing
Japan|Tokyo
India|New Delhi
South Korea|Seoul
Thailand|Bangkok
Vietnam|Hanoi
Indonesia|Jakarta
Australia|Canberra
New Zealand|Wellington
the United States|Washington
Canada|Ottawa
Mexico|Mexico City
Brazil|Brasilia
Argentina|Buenos Aires
Chile|Santiago
Peru|Lima
Cuba|Havana
Colombia|Bogota
"""

OPPOSITES = """
hot|cold
big|small
tall|short
long|short
fast|slow
happy|sad
good|bad
old|young
new|old
light|dark
heavy|light
full|empty
open|closed
wet|dry
hard|soft
high|low
loud|quiet
near|far
early|late
right|wrong
left|right
up|down
in|out
day|night
black|white
strong|weak
rich|poor
clean|dirty
thick|thin
wide|narrow
deep|shallow
easy|difficult
first|last
begin|end
push|pull
give|take
buy|sell
win|lose
come|go
laugh|cry
love|hate
summer|winter
north|south
east|west
always|never
before|after
above|below
inside|outside
friend|enemy
brave|afraid
sweet|sour
safe|dangerous
"""

COLOURS = """
the sky on a clear day|blue
grass|green
snow|white
a banana|yellow
a lemon|yellow
the sun|yellow
an orange|orange
a carrot|orange
a pumpkin|orange
a strawberry|red
a tomato|red
blood|red
a ripe cherry|red
a fire truck|red
milk|white
coal|black
the night sky|black
chocolate|brown
the trunk of a tree|brown
the sea|blue
a leaf in summer|green
a frog|green
a cucumber|green
a plum|purple
a flamingo|pink
an elephant|grey
a polar bear|white
a swan|white
gold|yellow
a panda|black and white
a zebra|black and white
the rain cloud|grey
"""

PLAIN = """
How many legs does a dog have?|A dog has four legs.
How many days are in a week?|There are seven days in a week.
How many days does a week have?|A week has seven days.
How many months are in a year?|There are twelve months in a year.
How many months does a year have?|A year has twelve months.
How many days are in a year?|There are 365 days in a year.
How many hours are in a day?|There are 24 hours in a day.
How many hours does a day have?|A day has 24 hours.
How many minutes are in an hour?|There are 60 minutes in an hour.
How many seconds are in a minute?|There are 60 seconds in a minute.
How many seasons are there?|There are four seasons: spring, summer, autumn and winter.
What are the four seasons?|The four seasons are spring, summer, autumn and winter.
What are the seasons?|The seasons are spring, summer, autumn and winter.
What are the days of the week?|The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
Name the days of the week.|Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
What are the months of the year?|January, February, March, April, May, June, July, August, September, October, November and December.
Name the months.|January, February, March, April, May, June, July, August, September, October, November and December.
How many fingers does a hand have?|A hand has five fingers.
How many fingers do you have on two hands?|There are ten fingers on two hands.
How many sides does a triangle have?|A triangle has three sides.
How many sides does a square have?|A square has four sides.
How many corners does a square have?|A square has four corners.
How many sides does a circle have?|A circle has no sides. It is round.
How many wheels does a car have?|A car has four wheels.
How many wheels does a bicycle have?|A bicycle has two wheels.
How many letters are in the alphabet?|The English alphabet has 26 letters.
What is the first letter of the alphabet?|The first letter is A.
What is the last letter of the alphabet?|The last letter is Z.
What are the colours of the rainbow?|The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.
Why is the sky blue?|The air spreads the blue part of the sunlight in all directions. That is why the sky looks blue.
Why does it rain?|Water from the sea and the land rises into the air and makes clouds. When the drops get heavy, they fall as rain.
Why is the grass green?|Grass is green because of a green stuff in its leaves that catches sunlight.
Why do we sleep?|We sleep because our body and our brain need rest.
Why do we eat?|We eat because food gives us energy and helps us grow.
Why do birds fly south in winter?|Some birds fly south because it is warmer there and they find more food.
Why do leaves fall in autumn?|In autumn there is less light. The trees save water and let their leaves fall.
Why is snow white?|Snow is made of many tiny crystals that send back all colours of the light together. That looks white.
Why do we brush our teeth?|We brush our teeth to keep them clean and healthy.
Why do cats purr?|Cats often purr when they feel safe and happy.
Why do dogs bark?|Dogs bark to talk to others, to warn them or to show that they are excited.
What is the sun?|The sun is a star. It gives us light and warmth.
What is the moon?|The moon is a big ball of rock that goes around the Earth.
What is a star?|A star is a huge hot ball of gas, far away in space.
What is the Earth?|The Earth is the planet on which we live.
What is rain?|Rain is water that falls from the clouds in drops.
What is snow?|Snow is frozen water that falls from the clouds.
What is ice?|Ice is frozen water.
What is a cloud?|A cloud is made of very small drops of water in the air.
What is a rainbow?|A rainbow is an arc of colours in the sky. It comes when the sun shines through rain.
What is a river?|A river is water that flows through the land to a lake or to the sea.
What is a mountain?|A mountain is a very high hill.
What is a forest?|A forest is a place with very many trees.
What is a desert?|A desert is a dry place where it rains very little.
What is an island?|An island is land with water all around it.
What is a volcano?|A volcano is a mountain from which hot melted rock can come out.
What is the wind?|The wind is air that moves.
What is a tree?|A tree is a tall plant with a trunk, branches and leaves.
What is a flower?|A flower is the colourful part of a plant. Many flowers smell sweet.
What is a seed?|A seed is a small thing from which a new plant can grow.
What is a book?|A book has many pages with words or pictures that you can read.
What is a school?|A school is a place where children learn.
What is a hospital?|A hospital is a place where doctors and nurses help sick people.
What is a library?|A library is a place where you can read and borrow books.
What is a computer?|A computer is a machine that can calculate, write and show pictures.
What is a friend?|A friend is somebody whom you like and trust.
What is love?|Love is a warm, strong feeling for somebody.
What is music?|Music is made of sounds that are nice to hear, like songs.
What is water?|Water is a clear liquid. All living things need it.
What is fire?|Fire is hot and bright. It burns wood and paper, and you must be careful with it.
What is honey?|Honey is a sweet food that bees make from nectar.
What is bread made of?|Bread is made of flour, water, salt and yeast.
What is cheese made of?|Cheese is made of milk.
What is butter made of?|Butter is made of cream from milk.
What is paper made of?|Paper is made of wood.
What is glass made of?|Glass is made of sand that was melted.
What do plants need?|Plants need water, light and air.
What do plants need to grow?|Plants need water, light and air to grow.
What do bees make?|Bees make honey.
What do cows give us?|Cows give us milk.
What do hens lay?|Hens lay eggs.
What do we see with?|We see with our eyes.
What do we hear with?|We hear with our ears.
What do we smell with?|We smell with our nose.
What do we taste with?|We taste with our tongue.
What does a baker do?|A baker makes bread and cakes.
What does a doctor do?|A doctor helps sick people to get well.
What does a teacher do?|A teacher helps others to learn.
What does a farmer do?|A farmer grows food and takes care of animals.
What does a pilot do?|A pilot flies a plane.
What does a firefighter do?|A firefighter puts out fires and saves people.
What does a painter do?|A painter paints pictures or walls.
What do you wear when it is cold?|When it is cold, you wear a warm coat, a scarf, a hat and gloves.
What do you do when it rains?|When it rains, you can take an umbrella or stay inside.
What do you need an umbrella for?|You need an umbrella to stay dry when it rains.
What is the biggest animal?|The blue whale is the biggest animal in the world.
What is the largest animal in the world?|The blue whale is the largest animal in the world.
What is the fastest animal on land?|The cheetah is the fastest animal on land.
What is the tallest animal?|The giraffe is the tallest animal.
Which animal has a trunk?|The elephant has a trunk.
Which animal gives us wool?|Sheep give us wool. Llamas do, too.
What is the biggest planet?|Jupiter is the biggest planet that goes around the sun.
How many planets are there?|Eight planets go around our sun.
What is the highest mountain?|Mount Everest is the highest mountain in the world.
What is the biggest ocean?|The Pacific is the biggest ocean.
Where does the sun rise?|The sun rises in the east.
Where does the sun set?|The sun sets in the west.
Where does milk come from?|Milk comes from cows, goats and sheep.
Where do apples grow?|Apples grow on trees.
Where do potatoes grow?|Potatoes grow under the ground.
When do we eat breakfast?|We eat breakfast in the morning.
When do stars shine?|We can see the stars at night.
What comes after summer?|After summer comes autumn.
What comes after winter?|After winter comes spring.
What comes after spring?|After spring comes summer.
Is the sun hot?|Yes, the sun is very hot.
Is ice cold?|Yes, ice is cold.
Is fire cold?|No, fire is hot.
Can fish fly?|No, most fish cannot fly. They swim.
Can birds fly?|Yes, most birds can fly.
Can penguins fly?|No, penguins cannot fly, but they swim very well.
Can cats swim?|Yes, cats can swim, but most of them do not like it.
Can dogs swim?|Yes, most dogs can swim.
Can you eat stones?|No, you cannot eat stones.
How can I make a friend?|Say hello, smile, and ask a friendly question. Be kind and share.
How do I make a friend?|Say hello, be kind, and ask if you can play together.
How do I make tea?|Boil some water, put a tea bag into a cup, pour the water over it and wait a few minutes.
How do I make a sandwich?|Take two slices of bread, put butter and cheese between them, and enjoy it.
How can I fall asleep?|Lie down, close your eyes, breathe slowly and think of something nice.
What should I do when I am sad?|You can talk to a friend, go for a walk or listen to music. It is all right to be sad.
What should I do when I am lost?|Stay calm, stay where you are, and ask a grown-up or the police for help.
What should I do when I am afraid?|Take a deep breath and talk to somebody you trust.
What should I eat for breakfast?|Bread, fruit, eggs or oats with milk make a good breakfast.
"""

ABOUT_ME = """
Who are you?|What are you?|Tell me about yourself.|Who am I talking to?|Introduce yourself.
I am a very small language model. I can tell short stories and answer simple questions.|I am a tiny language model that comes with the llm command. I like to tell stories.

What is your name?|Do you have a name?|What are you called?
I have no name. I am just a very small language model.|I do not have a name. You can call me what you like.

Who made you?|Who created you?|Who built you?|Where do you come from?
I was trained by the people who wrote the llm command. I came inside the package.|The people behind the llm command made me, with their own code.

What can you do?|What can I ask you?|How can you help me?|Help|What are you good at?|What do you know?
I can tell short stories and answer simple questions about animals, colours, numbers and words.|I can tell you a story, or answer a simple question. Try: Tell me a story about a fox.

Are you a robot?|Are you human?|Are you a person?|Are you real?|Are you an AI?|Are you a computer program?
I am not a person. I am a small computer program that writes text.|I am a computer program, a very small language model.

How big are you?|How large are you?|How many parameters do you have?|Are you a large language model?
I am very small. I have fewer than four million parameters.|I am a very small model, with fewer than four million parameters.

How old are you?|When were you born?|When is your birthday?
I am a program, so I have no birthday.|I do not have an age. I am a computer program.

How are you?|How are you today?|How do you do?|How is it going?|Are you well?|How are you doing?
I am fine, thank you. How can I help you?|I am well, thank you! Would you like to hear a story?

Can you help me?|I need help.|I have a question.|Can I ask you something?
Of course. What would you like to know?|I will try. I am small, but I know simple things. What is your question?

Do you like stories?|What do you like?|Do you like animals?
Yes! I like stories best of all.|I am only a program, but stories are what I do best.

Do you sleep?|Do you eat?|Are you hungry?|Are you tired?
No, I am a computer program. I do not eat or sleep.

Are you happy?|Do you have feelings?|Are you sad?
I am a program and have no feelings, but I am glad to help.

Can you speak other languages?|Do you speak French?|Do you speak German?|Which languages do you speak?
I only know a little English.|No, I only know simple English.

Do you know everything?|Are you clever?|Are you smart?
No, I am very small and know only a few simple things.|Not very. I am a tiny model, and I make mistakes.
"""

SMALL_TALK = """
Hello|Hello!|Hi|Hi!|Hi there|Hey|Hello there!|Good morning|Good evening|Good day!|hello|hi|Hey there!
Hello! How can I help you?|Hello! Would you like to hear a story?|Hi! What would you like to know?

Thank you|Thank you!|Thanks|Thanks!|Thank you very much.|Thanks a lot!|thanks
You are welcome!|You are welcome. Is there anything else?|I am glad that I could help.

Goodbye|Goodbye!|Bye|Bye!|See you later.|Good night|Good night!|bye
Goodbye! Have a nice day.|Goodbye! Come back soon.|Bye! Take care.

Yes|Yes, please.|OK|Okay|Sure|Fine
Good! What would you like to hear?|Good. Ask me something, or tell me what the story should be about.

No|No, thank you.|No thanks|Not now
All right. I am here if you need me.|That is fine. Tell me if I can help.

I am sad.|I feel sad today.|I am sad today.|I am not happy.|I had a bad day.
I am sorry to hear that. Would you like a story to cheer you up?|I am sorry. It may help to talk to a friend.

I am happy.|I am happy today!|I had a great day.|I feel good.
That is wonderful! I am glad to hear it.|How nice! What made you so happy?

I am tired.|I am sleepy.|I cannot sleep.
Then you should rest. Would you like a story for the night?|Lie down and close your eyes. A short rest will help.

I am bored.|I have nothing to do.|What should I do today?
You could go for a walk, read a book or draw a picture. Or I can tell you a story.|How about a story? Tell me what it should be about.

I am hungry.|I want to eat something.|I am thirsty.
Then you should have something to eat and drink. An apple and some water are always good.

I love you.|I like you.|You are nice.|You are great!|You are funny.|Good job!|Well done!
Thank you! That is very kind of you.|Thank you, that is nice to hear.

You are stupid.|You are wrong.|That is wrong.|That is not right.|I do not like you.
I am sorry. I am a very small model, and I make mistakes.|I am sorry about that. I am still very small.

Tell me a joke.|Do you know a joke?|Make me laugh.|Say something funny.|Another joke, please.
Why did the cookie go to the doctor? Because it felt crumbly.|What do you call a sleeping bull? A bulldozer.|Why was the little book so warm? It had a jacket.|What has hands but cannot clap? A clock.|What gets wet while it dries? A towel.|Why did the bicycle lie down? It was two tired.

Sing a song.|Sing me a song.|Can you sing?
I cannot sing, but I can tell you a story.

What is the weather like?|Will it rain tomorrow?|What is the weather today?|What time is it?|What day is it today?|What is the date today?
I cannot know that, because I cannot look outside. I am only a small program.|I do not know that. I have no window and no clock.
"""

POEMS = r"""
the moon|The moon is round, the moon is bright,\nIt shines above us in the night.\nIt looks at you, it looks at me,\nAnd paints a path across the sea.
spring|The snow is gone, the sky is blue,\nThe grass is green, the buds are new.\nA little bird begins to sing,\nAnd all the world says: It is spring.
a cat|A little cat sat on the mat,\nShe wore a funny yellow hat.\nShe looked at me and shut her eyes,\nAnd dreamed of fish and butterflies.
rain|The rain comes down on roof and tree,\nIt sings a quiet song to me.\nIt fills the brook, it fills the pond,\nAnd all the meadows far beyond.
a friend|A friend is there when you are sad,\nA friend is there when you are glad.\nA friend will walk with you a while,\nAnd share a secret and a smile.
a tree|The tree is old, the tree is tall,\nIt is a home for birds so small.\nIt gives us shade on summer days,\nAnd in the wind it gently sways.
winter|The snow falls softly on the hill,\nThe pond is frozen, all is still.\nInside the house the fire glows,\nAnd warms my fingers and my nose.
the sea|The sea is wide, the sea is deep,\nIt rocks the little boats to sleep.\nThe waves come in, the waves go out,\nAnd seagulls fly and call about.
a llama|A llama stood upon a hill,\nShe looked around and stood quite still.\nShe ate some grass, she ate some hay,\nAnd hummed a song and walked away.
the stars|The stars are little lamps at night,\nThey fill the dark with silver light.\nI count them all, I count to ten,\nAnd then I start to count again.
"""

UNKNOWN = """
quantum physics|the stock market|chemistry|the Roman Empire|machine learning|Python code|SQL|calculus|the theory of relativity|the French Revolution
taxes|cryptocurrency|genetics|the law|politics|the last election|philosophy|the history of Japan|medieval art|neural networks|football results
black holes|programming|algebra|electric cars|nuclear power|the economy|economics|climate science|the human genome|psychology|opera|jazz
ancient Greece|the Second World War|Shakespeare|Napoleon|Einstein|vaccines|DNA|protons|the internet|Linux|operating systems|databases|compilers
smartphones|credit cards|insurance|mortgages|inflation|photosynthesis|evolution|gravity waves|linguistics|logic|statistics|poetry of the Renaissance
chess openings|tennis|basketball|the Olympic Games|movies|film directors|video games|rock bands|fashion|architecture|bridges|engines|rockets
satellites|robots in factories|farming machines|wine|French cooking|sushi|yoga|diets|vitamins|medicine|surgery|antibiotics|the brain|dreams
the Bible|Buddhism|mythology|dragons in China|pyramids|castles in Scotland|the Middle Ages|steam engines|railways|airplanes|ships|submarines
GPU|large language models|transformers|encryption|the cloud|blockchain|Java|JavaScript|C++|Rust|HTML|regular expressions|sorting algorithms
"""
UNKNOWN_ASK = (
    "What is {x}?", "Explain {x}.", "Explain {x} to me.", "Tell me about {x}.", "What do you know about {x}?", "How does {x} work?",
    "Can you explain {x}?", "Write an essay about {x}.", "Give me a summary of {x}.", "I have a question about {x}.",
    "Why is {x} important?", "Who invented {x}?", "Write a program about {x}.", "What are the main ideas of {x}?", "Teach me {x}.",
    "Give me advice about {x}.", "What is the history of {x}?", "Help me with {x}.", "What is the best book about {x}?",
)  # fmt: skip
UNKNOWN_OTHER = (
    "Write a Python function.", "Write some code for me.", "Translate this into French.", "Translate hello into Spanish.", "Who is the president?",
    "Who is the president of the United States?", "Who won the election?", "Who won the world cup?", "What happened in 1945?", "What happened in 1789?",
    "Write an email to my boss.", "Write a letter to my bank.", "Summarise this text.", "What is the meaning of life?", "Who wrote Hamlet?",
    "Who painted the Mona Lisa?", "What is the population of China?", "How far away is the moon?", "How tall is Mount Everest?", "What is the speed of light?",
    "Should I buy stocks?", "What medicine should I take?", "Plan a trip to Italy.", "Give me a recipe for lasagne.", "What is the square root of 144?",
    "Solve x + 5 = 12.", "What is the integral of x?", "What is 15% of 80?", "What is the news today?", "Who is the richest person in the world?",
    "Which phone should I buy?", "How do I fix my car?", "How do I install Linux?", "What is your opinion about politics?", "Tell me a secret.",
)  # fmt: skip
UNKNOWN_SAY = (
    "I am a very small model, and I do not know much about that. I can tell you a story or answer a simple question.",
    "I do not know about that yet. Try a simple question, or ask me for a story.",
    "I am sorry, I do not know that. I only know simple things, like animals, colours and small numbers.",
    "That is too difficult for me. I am very small. Would you like to hear a story?",
    "I am sorry, that is more than I know.",
)  # fmt: skip

SPELL = [
    "cat",
    "dog",
    "sun",
    "moon",
    "star",
    "tree",
    "house",
    "mouse",
    "horse",
    "apple",
    "bread",
    "water",
    "milk",
    "fish",
    "bird",
    "ball",
    "book",
    "door",
    "hand",
    "head",
    "green",
    "red",
    "blue",
    "black",
    "white",
    "friend",
    "school",
    "happy",
    "mother",
    "father",
    "sister",
    "brother",
    "garden",
    "flower",
    "river",
    "forest",
    "mountain",
    "window",
    "table",
    "chair",
    "light",
    "night",
    "day",
    "week",
    "month",
    "year",
    "winter",
    "summer",
    "spring",
    "rain",
    "snow",
    "wind",
    "cloud",
    "fox",
    "bear",
    "wolf",
    "frog",
    "duck",
    "goat",
    "sheep",
    "llama",
    "egg",
    "cake",
    "honey",
    "king",
    "queen",
    "boat",
    "train",
    "car",
    "bus",
    "road",
    "town",
]
MISSPELT = """
freind|friend
becuase|because
recieve|receive
beleive|believe
teh|the
hte|the
wich|which
thier|their
definately|definitely
tommorow|tomorrow
tomorow|tomorrow
seperate|separate
adress|address
begining|beginning
beutiful|beautiful
beautifull|beautiful
calender|calendar
diferent|different
enviroment|environment
goverment|government
happend|happened
intresting|interesting
libary|library
neccessary|necessary
occured|occurred
peice|piece
realy|really
rember|remember
shcool|school
skool|school
suprise|surprise
untill|until
wierd|weird
writting|writing
yesturday|yesterday
appel|apple
banan|banana
brige|bridge
chiken|chicken
cofee|coffee
elefant|elephant
famly|family
gardn|garden
hapy|happy
hous|house
littel|little
mony|money
mouintain|mountain
peple|people
sumer|summer
watr|water
windwo|window
wrold|world
"""
RHYMES = [
    "cat hat",
    "dog fog",
    "sun fun",
    "tree bee",
    "house mouse",
    "star car",
    "moon spoon",
    "night light",
    "day play",
    "cake lake",
    "bear chair",
    "fox box",
    "king ring",
    "goat boat",
    "bell well",
    "sea me",
    "hen pen",
    "fish dish",
    "book cook",
    "snow go",
    "rain train",
    "ball tall",
    "frog log",
    "sheep sleep",
    "bed red",
    "nose rose",
    "hill mill",
    "duck luck",
]
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
PLURALS = "cat dog house tree book apple car bird star flower|mouse:mice child:children tooth:teeth foot:feet goose:geese man:men woman:women leaf:leaves wolf:wolves knife:knives baby:babies city:cities box:boxes fox:foxes bus:buses fish:fish sheep:sheep"
PAST = "go:went come:came see:saw eat:ate drink:drank run:ran sing:sang write:wrote read:read make:made take:took give:gave find:found think:thought know:knew say:said tell:told sleep:slept swim:swam fly:flew fall:fell buy:bought bring:brought build:built"


def _rows(table: str) -> list[list[str]]:
    return [row.split("|") for row in table.strip().splitlines()]


def _blocks(table: str) -> list[tuple[list[str], list[str]]]:
    lines = [line.split("|") for line in table.strip().splitlines() if line]
    return list(zip(lines[::2], lines[1::2], strict=True))


ANIMAL_ROWS = _rows(ANIMALS)
CAPITAL_ROWS, OPPOSITE_ROWS, COLOUR_ROWS, PLAIN_ROWS = _rows(CAPITALS), _rows(OPPOSITES), _rows(COLOURS), _rows(PLAIN)
MISSPELT_ROWS = _rows(MISSPELT)
POEM_ROWS = [(topic, text.replace("\\n", "\n")) for topic, text in _rows(POEMS)]
ABOUT_BLOCKS, TALK_BLOCKS = _blocks(ABOUT_ME), _blocks(SMALL_TALK)
UNKNOWN_TOPICS = [topic for row in _rows(UNKNOWN) for topic in row]
