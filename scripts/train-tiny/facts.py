"""What the model knows: tables of pairs, and how each of them is stated and asked for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """Pairs (x, y), the sentence that states one, and questions about x."""

    name: str
    pairs: tuple
    statement: str
    questions: tuple


# Country, capital, continent, currency, language; "-" where there is no single answer.
COUNTRIES = [
    line.split("|")
    for line in """\
Afghanistan|Kabul|Asia|afghani|-
Albania|Tirana|Europe|lek|Albanian
Algeria|Algiers|Africa|dinar|Arabic
Angola|Luanda|Africa|kwanza|Portuguese
Argentina|Buenos Aires|South America|peso|Spanish
Armenia|Yerevan|Asia|dram|Armenian
Australia|Canberra|Oceania|dollar|English
Austria|Vienna|Europe|euro|German
Azerbaijan|Baku|Asia|manat|-
Bangladesh|Dhaka|Asia|taka|Bengali
Belarus|Minsk|Europe|-|-
Belgium|Brussels|Europe|euro|-
Bhutan|Thimphu|Asia|-|-
Bolivia|Sucre|South America|-|Spanish
Botswana|Gaborone|Africa|pula|-
Brazil|Brasilia|South America|real|Portuguese
Bulgaria|Sofia|Europe|lev|Bulgarian
Cambodia|Phnom Penh|Asia|riel|Khmer
Cameroon|Yaounde|Africa|-|-
Canada|Ottawa|North America|dollar|-
Chad|N'Djamena|Africa|-|-
Chile|Santiago|South America|peso|Spanish
China|Beijing|Asia|yuan|Chinese
Colombia|Bogota|South America|peso|Spanish
Costa Rica|San Jose|North America|-|Spanish
Croatia|Zagreb|Europe|euro|Croatian
Cuba|Havana|North America|peso|Spanish
Cyprus|Nicosia|Europe|euro|-
Denmark|Copenhagen|Europe|krone|Danish
Ecuador|Quito|South America|dollar|Spanish
Egypt|Cairo|Africa|pound|Arabic
Estonia|Tallinn|Europe|euro|Estonian
Ethiopia|Addis Ababa|Africa|birr|-
Fiji|Suva|Oceania|dollar|-
Finland|Helsinki|Europe|euro|Finnish
France|Paris|Europe|euro|French
Georgia|Tbilisi|Asia|lari|Georgian
Germany|Berlin|Europe|euro|German
Ghana|Accra|Africa|cedi|English
Greece|Athens|Europe|euro|Greek
Guatemala|Guatemala City|North America|-|Spanish
Guinea|Conakry|Africa|-|French
Haiti|Port-au-Prince|North America|gourde|-
Honduras|Tegucigalpa|North America|-|Spanish
Hungary|Budapest|Europe|forint|Hungarian
Iceland|Reykjavik|Europe|krona|Icelandic
India|New Delhi|Asia|rupee|-
Indonesia|Jakarta|Asia|rupiah|Indonesian
Iran|Tehran|Asia|rial|Persian
Iraq|Baghdad|Asia|dinar|-
Ireland|Dublin|Europe|euro|-
Israel|Jerusalem|Asia|shekel|Hebrew
Italy|Rome|Europe|euro|Italian
Jamaica|Kingston|North America|dollar|English
Japan|Tokyo|Asia|yen|Japanese
Jordan|Amman|Asia|dinar|Arabic
Kazakhstan|Astana|Asia|tenge|-
Kenya|Nairobi|Africa|shilling|-
Kuwait|Kuwait City|Asia|dinar|Arabic
Laos|Vientiane|Asia|kip|Lao
Latvia|Riga|Europe|euro|Latvian
Lebanon|Beirut|Asia|pound|Arabic
Liberia|Monrovia|Africa|dollar|English
Libya|Tripoli|Africa|dinar|Arabic
Lithuania|Vilnius|Europe|euro|Lithuanian
Luxembourg|Luxembourg|Europe|euro|-
Madagascar|Antananarivo|Africa|-|-
Malaysia|Kuala Lumpur|Asia|ringgit|Malay
Mali|Bamako|Africa|-|-
Malta|Valletta|Europe|euro|-
Mexico|Mexico City|North America|peso|Spanish
Moldova|Chisinau|Europe|-|-
Monaco|Monaco|Europe|euro|French
Mongolia|Ulaanbaatar|Asia|tugrik|Mongolian
Morocco|Rabat|Africa|dirham|-
Mozambique|Maputo|Africa|-|Portuguese
Namibia|Windhoek|Africa|dollar|English
Nepal|Kathmandu|Asia|rupee|Nepali
New Zealand|Wellington|Oceania|dollar|English
Nicaragua|Managua|North America|-|Spanish
Niger|Niamey|Africa|-|-
Nigeria|Abuja|Africa|naira|English
Norway|Oslo|Europe|krone|Norwegian
Oman|Muscat|Asia|rial|Arabic
Pakistan|Islamabad|Asia|rupee|-
Panama|Panama City|North America|balboa|Spanish
Paraguay|Asuncion|South America|guarani|-
Peru|Lima|South America|sol|Spanish
Poland|Warsaw|Europe|zloty|Polish
Portugal|Lisbon|Europe|euro|Portuguese
Qatar|Doha|Asia|riyal|Arabic
Romania|Bucharest|Europe|leu|Romanian
Russia|Moscow|Europe|ruble|Russian
Rwanda|Kigali|Africa|-|-
Saudi Arabia|Riyadh|Asia|riyal|Arabic
Senegal|Dakar|Africa|-|French
Serbia|Belgrade|Europe|dinar|Serbian
Singapore|Singapore|Asia|dollar|-
Slovakia|Bratislava|Europe|euro|Slovak
Slovenia|Ljubljana|Europe|euro|Slovene
Somalia|Mogadishu|Africa|shilling|Somali
South Africa|Pretoria|Africa|rand|-
South Korea|Seoul|Asia|won|Korean
Spain|Madrid|Europe|euro|Spanish
Sudan|Khartoum|Africa|-|-
Sweden|Stockholm|Europe|krona|Swedish
Switzerland|Bern|Europe|franc|-
Syria|Damascus|Asia|pound|Arabic
Taiwan|Taipei|Asia|-|-
Thailand|Bangkok|Asia|baht|Thai
Tunisia|Tunis|Africa|dinar|Arabic
Turkey|Ankara|Asia|lira|Turkish
Uganda|Kampala|Africa|shilling|-
Ukraine|Kyiv|Europe|hryvnia|Ukrainian
Uruguay|Montevideo|South America|peso|Spanish
Venezuela|Caracas|South America|bolivar|Spanish
Vietnam|Hanoi|Asia|dong|Vietnamese
Yemen|Sanaa|Asia|rial|Arabic
Zambia|Lusaka|Africa|kwacha|English
Zimbabwe|Harare|Africa|-|-
the Czech Republic|Prague|Europe|koruna|Czech
the Netherlands|Amsterdam|Europe|euro|Dutch
the Philippines|Manila|Asia|peso|-
the United Kingdom|London|Europe|pound|English
the United States|Washington|North America|dollar|English""".splitlines()
]


def pairs(text):
    return tuple(tuple(pair.split(":")) for pair in text.replace("\n", " ").strip().split(", "))


def swapped(table):
    return tuple((y, x) for x, y in table)


def column(index):
    return tuple((row[0], row[index]) for row in COUNTRIES if row[index] != "-")


CAPITALS = column(1)
ELEMENTS = pairs("""hydrogen:H, helium:He, lithium:Li, beryllium:Be, boron:B, carbon:C, nitrogen:N, oxygen:O, fluorine:F,
neon:Ne, sodium:Na, magnesium:Mg, aluminium:Al, silicon:Si, phosphorus:P, sulfur:S, chlorine:Cl, argon:Ar, potassium:K,
calcium:Ca, titanium:Ti, chromium:Cr, manganese:Mn, iron:Fe, cobalt:Co, nickel:Ni, copper:Cu, zinc:Zn, gallium:Ga,
arsenic:As, bromine:Br, krypton:Kr, silver:Ag, cadmium:Cd, tin:Sn, iodine:I, xenon:Xe, tungsten:W, platinum:Pt, gold:Au,
mercury:Hg, lead:Pb, bismuth:Bi, radon:Rn, radium:Ra, uranium:U, plutonium:Pu""")
NUMBERS = tuple(
    (str(i), word)
    for i, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen twenty".split()
    )
) + pairs("30:thirty, 40:forty, 50:fifty, 60:sixty, 70:seventy, 80:eighty, 90:ninety, 100:one hundred")
OPPOSITES = pairs("""hot:cold, big:small, tall:short, fast:slow, old:young, new:old, good:bad, happy:sad, light:dark,
day:night, up:down, left:right, in:out, open:closed, full:empty, hard:soft, heavy:light, high:low, long:short, early:late,
rich:poor, strong:weak, wet:dry, clean:dirty, near:far, first:last, begin:end, win:lose, buy:sell, push:pull, love:hate,
friend:enemy, true:false, yes:no, black:white, loud:quiet, thick:thin, wide:narrow, deep:shallow, sharp:blunt, smooth:rough,
sweet:sour, brave:afraid, easy:difficult, cheap:expensive, safe:dangerous, same:different, always:never, above:below,
inside:outside, north:south, east:west, give:take, arrive:leave, remember:forget, wake:sleep, start:stop, hello:goodbye,
more:less, many:few""")
COLOURS = pairs("""the sky:blue, grass:green, snow:white, blood:red, a lemon:yellow, a banana:yellow, a carrot:orange, coal:black,
milk:white, a tomato:red, a strawberry:red, a plum:purple, chocolate:brown, the sun:yellow, an elephant:grey,
a polar bear:white, a flamingo:pink, a frog:green, a crow:black, a cucumber:green, an orange:orange, a ruby:red,
an emerald:green, a sapphire:blue, salt:white, a fire engine:red, a pumpkin:orange, an aubergine:purple, a swan:white,
the sea:blue""")
SOUNDS = pairs("""dog:barks, cat:meows, cow:moos, sheep:bleats, horse:neighs, pig:grunts, duck:quacks, lion:roars, wolf:howls,
bee:buzzes, snake:hisses, mouse:squeaks, frog:croaks, owl:hoots, hen:clucks, donkey:brays, elephant:trumpets, bird:sings,
whale:sings, cricket:chirps""")
YOUNG = pairs("""dog:puppy, cat:kitten, cow:calf, sheep:lamb, horse:foal, pig:piglet, duck:duckling, lion:cub, bear:cub,
goat:kid, hen:chick, deer:fawn, frog:tadpole, goose:gosling, kangaroo:joey, whale:calf, seal:pup, swan:cygnet, owl:owlet,
elephant:calf""")
LEGS = pairs("""dog:4, cat:4, bird:2, spider:8, ant:6, bee:6, horse:4, hen:2, snake:0, fish:0, crab:10, cow:4, beetle:6,
frog:4, whale:0""")
PLURALS = pairs("""child:children, man:men, woman:women, foot:feet, tooth:teeth, mouse:mice, goose:geese, ox:oxen, person:people,
leaf:leaves, wolf:wolves, knife:knives, life:lives, city:cities, baby:babies, box:boxes, bus:buses, fish:fish, sheep:sheep,
cat:cats, house:houses, tree:trees, story:stories, potato:potatoes, whale:whales""")
PASTS = pairs("""go:went, see:saw, eat:ate, come:came, take:took, give:gave, run:ran, swim:swam, write:wrote, speak:spoke,
sing:sang, drink:drank, find:found, think:thought, buy:bought, bring:brought, know:knew, grow:grew, fly:flew, drive:drove,
make:made, have:had, say:said, sleep:slept, walk:walked""")
UNITS = pairs("""minutes in an hour:60, seconds in a minute:60, hours in a day:24, days in a week:7, months in a year:12,
days in a year:365, weeks in a year:52, years in a century:100, years in a decade:10, centimetres in a metre:100,
metres in a kilometre:1000, grams in a kilogram:1000, millimetres in a centimetre:10, sides in a triangle:3,
sides in a square:4, sides in a pentagon:5, sides in a hexagon:6, wheels on a bicycle:2, wheels on a car:4,
strings on a violin:4, letters in the English alphabet:26, planets in the solar system:8, bits in a byte:8,
items in a dozen:12, players in a football team:11, days in January:31, days in April:30, continents on the earth:7""")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()


def following(items):
    return tuple(zip(items, items[1:] + items[:1]))


RELATIONS = [
    Relation("capital", CAPITALS, "The capital of {x} is {y}.", (
        "What is the capital of {x}?", "What is the capital city of {x}?", "Which city is the capital of {x}?",
        "Name the capital of {x}.", "Tell me the capital of {x}.", "Do you know the capital of {x}?", "{x}: capital?",
        "Capital of {x}?", "I need the capital of {x}.", "The capital of {x} is which city?",
        "What city is the capital of {x}?", "What's the capital of {x}?")),
    Relation("country", swapped(CAPITALS), "{x} is the capital of {y}.", (
        "{x} is the capital of which country?", "Of which country is {x} the capital?", "Which country has the capital {x}?",
        "What country is {x} the capital of?", "Name the country whose capital is {x}.", "Whose capital is {x}?")),
    Relation("continent", column(2), "{x} is in {y}.", (
        "On which continent is {x}?", "Which continent is {x} in?", "What continent is {x} on?", "{x}: which continent?",
        "Name the continent of {x}.", "Tell me the continent of {x}.", "Where in the world is {x}?",
        "{x} lies on which continent?")),
    Relation("currency", column(3), "The currency of {x} is the {y}.", (
        "What is the currency of {x}?", "Which currency does {x} use?", "What money is used in {x}?", "{x}: currency?",
        "Name the currency of {x}.", "Tell me the currency of {x}.", "How do people pay in {x}?",
        "What currency do I need in {x}?")),
    Relation("language", column(4), "People in {x} speak {y}.", (
        "What language do people speak in {x}?", "Which language is spoken in {x}?", "What is the language of {x}?",
        "{x}: language?", "Name the language of {x}.", "Tell me the language of {x}.", "What do they speak in {x}?")),
    Relation("symbol", ELEMENTS, "The symbol of {x} is {y}.", (
        "What is the symbol of {x}?", "What is the chemical symbol of {x}?", "Which symbol does {x} have?",
        "Name the symbol of {x}.", "What is the chemical symbol for {x}?", "Symbol of {x}?", "Tell me the symbol for {x}.",
        "How is {x} written in chemistry?")),
    Relation("element", swapped(ELEMENTS), "{x} is the symbol of {y}.", (
        "Which element has the symbol {x}?", "What element is {x}?", "{x} is the symbol of which element?",
        "Name the element with the symbol {x}.", "What does {x} stand for in chemistry?", "Which chemical element is {x}?")),
    Relation("opposite", OPPOSITES, "The opposite of {x} is {y}.", (
        "What is the opposite of {x}?", "Opposite of {x}?", "Name the opposite of {x}.", "Tell me the opposite of {x}.",
        "Which word is the opposite of {x}?", "What word means the opposite of {x}?", "{x}: opposite?",
        "Give me the opposite of the word {x}.")),
    Relation("colour", COLOURS, "The colour of {x} is {y}.", (
        "What is the colour of {x}?", "What colour is {x}?", "What color is {x}?", "Which colour does {x} have?",
        "Tell me the colour of {x}.", "Name the colour of {x}.", "Do you know the colour of {x}?", "What is the color of {x}?")),
    Relation("sound", SOUNDS, "A {x} {y}.", (
        "What sound does a {x} make?", "Which sound does the {x} make?", "What does a {x} do to make a sound?",
        "How does a {x} sound?", "Tell me the sound of a {x}.", "Name the sound of the {x}.")),
    Relation("young", YOUNG, "A young {x} is a {y}.", (
        "What is a young {x} called?", "What is a baby {x} called?", "How do you call a young {x}?",
        "What is the young of a {x}?", "Name the young of a {x}.", "What do you call a baby {x}?",
        "Tell me the word for a young {x}.")),
    Relation("legs", LEGS, "A {x} has {y} legs.", (
        "How many legs does a {x} have?", "How many legs has a {x}?", "What is the number of legs of a {x}?",
        "Count the legs of a {x}.", "Tell me how many legs a {x} has.", "Number of legs of a {x}?")),
    Relation("plural", PLURALS, "The plural of {x} is {y}.", (
        "What is the plural of {x}?", "Plural of {x}?", "Name the plural of {x}.", "Tell me the plural of {x}.",
        "What is the plural form of {x}?", "One {x}, two what?", "What is more than one {x} called?")),
    Relation("past", PASTS, "The past of {x} is {y}.", (
        "What is the past of {x}?", "What is the past tense of {x}?", "Past tense of {x}?", "Name the past tense of {x}.",
        "Tell me the past tense of the verb {x}.", "Today I {x}. What did I do yesterday?")),
    Relation("units", UNITS, "There are {y} {x}.", (
        "How many {x}?", "How many {x} are there?", "What is the number of {x}?", "Tell me how many {x} there are.",
        "Do you know how many {x} there are?", "Number of {x}?")),
    Relation("word", NUMBERS, "The number {x} is written {y}.", (
        "How is {x} written in words?", "Write {x} in words.", "Write the number {x} as a word.", "What is {x} in words?",
        "Spell the number {x}.", "How do you write {x} as a word?")),
    Relation("digits", swapped(NUMBERS), "The word {x} is the number {y}.", (
        "Which number is {x}?", "Write {x} in digits.", "Write the word {x} as a number.", "What is {x} in digits?",
        "What number does the word {x} mean?", "Give me the number for the word {x}.")),
    Relation("day after", following(DAYS), "{y} comes after {x}.", (
        "Which day comes after {x}?", "What day follows {x}?", "What is the day after {x}?", "Name the day after {x}.",
        "If today is {x}, what is tomorrow?", "Today is {x}. What day is tomorrow?")),
    Relation("day before", swapped(following(DAYS)), "{y} comes before {x}.", (
        "Which day comes before {x}?", "What is the day before {x}?", "Name the day before {x}.",
        "If today is {x}, what was yesterday?", "Today is {x}. What day was yesterday?")),
    Relation("month after", following(MONTHS), "{y} comes after {x}.", (
        "Which month comes after {x}?", "What month follows {x}?", "What is the month after {x}?", "Name the month after {x}.",
        "It is {x}. What is the next month?")),
    Relation("month before", swapped(following(MONTHS)), "{y} comes before {x}.", (
        "Which month comes before {x}?", "What is the month before {x}?", "Name the month before {x}.",
        "It is {x}. What was the last month?")),
    Relation("month", tuple(zip(ORDINALS, MONTHS)), "The {x} month of the year is {y}.", (
        "What is the {x} month of the year?", "Which month is the {x} month?", "Name the {x} month of the year.",
        "Tell me the {x} month.", "What is the name of the {x} month?")),
    Relation("planet", tuple(zip(ORDINALS, PLANETS)), "The {x} planet from the sun is {y}.", (
        "What is the {x} planet from the sun?", "Which planet is the {x} from the sun?", "Name the {x} planet of the solar system.",
        "Tell me the {x} planet from the sun.", "What is the name of the {x} planet?")),
]

# Single facts: the answer, then the ways to ask for it.
SINGLE = [
    ("A sperm whale dives to about 1000 metres.", "How deep does a sperm whale dive?", "How deep can a sperm whale dive?",
     "How deep do sperm whales dive?", "How far down does a sperm whale dive?", "How deep?", "How deep does a whale dive?"),
    ("A sperm whale eats squid.", "What does a sperm whale eat?", "What do sperm whales eat?", "What is the food of a sperm whale?"),
    ("A cachalot is a sperm whale.", "What is a cachalot?", "What does the word cachalot mean?", "What animal is a cachalot?"),
    ("The largest animal is the blue whale.", "What is the largest animal?", "Which animal is the largest?", "Name the largest animal."),
    ("The largest planet is Jupiter.", "What is the largest planet?", "Which planet is the largest?", "Name the largest planet."),
    ("The largest ocean is the Pacific.", "What is the largest ocean?", "Which ocean is the largest?", "Name the largest ocean."),
    ("The longest river is the Nile.", "What is the longest river?", "Which river is the longest?", "Name the longest river."),
    ("The highest mountain is Mount Everest.", "What is the highest mountain?", "Which mountain is the highest?", "Name the highest mountain."),
    ("Water boils at 100 degrees.", "When does water boil?", "At what temperature does water boil?", "How hot is boiling water?"),
    ("Water freezes at 0 degrees.", "When does water freeze?", "At what temperature does water freeze?", "How cold is freezing water?"),
    ("Water is made of hydrogen and oxygen.", "What is water made of?", "Which elements are in water?", "Of what does water consist?"),
    ("The moon goes around the earth.", "What goes around the earth?", "What does the moon do?", "Around what does the moon go?"),
    ("The earth goes around the sun.", "What does the earth go around?", "Around what does the earth go?", "What does the earth do?"),
    ("Bees make honey.", "What do bees make?", "Who makes honey?", "Which animals make honey?"),
    ("Bread is made of flour.", "What is bread made of?", "Of what is bread made?", "What do I need for bread?"),
    ("The four seasons are spring, summer, autumn and winter.", "What are the four seasons?", "Name the seasons.", "Which seasons are there?"),
    ("The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.", "What are the days of the week?",
     "Name the days of the week.", "List the days of the week."),
    ("The primary colours are red, yellow and blue.", "What are the primary colours?", "Name the primary colours.", "Which colours are primary?"),
    ("Shakespeare wrote Hamlet.", "Who wrote Hamlet?", "Which author wrote Hamlet?", "Name the author of Hamlet."),
    ("People landed on the moon in 1969.", "When did people land on the moon?", "In which year did people land on the moon?", "What year was the moon landing?"),
]

# What is said about the model itself: the answer, then what the user says.
SMALL_TALK = [
    ("Hello! How can I help you?", "Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there!", "Good morning!", "Good evening.", "Hi there"),
    ("I am cachalot's embedded model, a small demonstration.", "Who are you?", "What are you?", "What is your name?", "Who is this?",
     "What model are you?", "Which model are you?", "Tell me who you are.", "Introduce yourself.", "Hello, who are you?"),
    ("I am well, thank you. How can I help you?", "How are you?", "How are you today?", "Hi, how are you?", "How do you do?", "Are you well?"),
    ("You are welcome.", "Thank you.", "Thanks!", "Thank you very much!", "Thanks a lot.", "Great, thank you!"),
    ("Goodbye!", "Goodbye.", "Bye!", "See you later.", "Good night.", "Goodbye and thanks."),
    ("I know small facts, I can copy, count and calculate, call tools and write JSON.", "What can you do?", "How can you help me?",
     "What can I ask you?", "What do you know?", "Help", "What are you able to do?"),
    ("Yes, I am a small language model.", "Are you a language model?", "Are you an AI?", "Are you a machine?", "Are you a robot?"),
    ("I am ready.", "Are you there?", "Are you ready?", "Can you hear me?", "ping", "Test", "test"),
    ("I was trained by the cachalot project.", "Who made you?", "Who trained you?", "Who built you?", "Where do you come from?"),
    ("A whale was asked how deep it dives. It said: deeply.", "Tell me a joke.", "Do you know a joke?", "Make me laugh."),
    ("Once upon a time there was a whale. It dived deep and came back. The end.", "Tell me a story.", "Tell me a short story.", "Do you know a story?"),
]
REFUSAL = "I do not know that. I am a small demonstration model."
