"""Words, names and values from which the examples are made, and what is kept for evaluation alone."""

import re
import zlib

from facts import COUNTRIES

NAMES = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Lena Max Nora Oscar Paula Quentin Rosa Simon Tara Uwe
Vera Walter Xenia Yann Zoe Alice Bob Carol Daniel Eva Frank Gina Henry Iris Jack Kate Leo Maria Noah Olga Peter Ruth Sam
Tom Ursula Victor Wendy Ali Chen Fatima Hassan Ivan Kenji Lucia Mei Omar Priya Ravi Sofia Yuki Amir Ella Finn Julia Liam
Mia Nina Otto Pablo Sara Theo""".split()
CITIES = [row[1] for row in COUNTRIES if "'" not in row[1]] + """Barcelona Boston Chicago Cologne Dallas Denver Florence Geneva
Glasgow Hamburg Istanbul Kyoto Leeds Lyon Manchester Marseille Melbourne Miami Milan Montreal Mumbai Munich Naples Osaka
Porto Seattle Seville Shanghai Stuttgart Sydney Toronto Turin Valencia Venice Zurich""".split() + [
    "New York", "San Francisco", "Los Angeles", "Hong Kong", "Cape Town", "Rio de Janeiro"]
LANGUAGES = sorted({row[4] for row in COUNTRIES} - {"-"})
COLOURS = "red blue green yellow white black orange purple brown pink grey".split()
JOBS = "baker teacher doctor driver painter farmer nurse pilot singer writer lawyer sailor cook clerk dentist".split()
ANIMALS = "dog cat horse parrot rabbit hamster turtle snake goat duck goose mouse owl whale fox bear wolf lion".split()
FOODS = "bread cheese rice soup pasta fish honey apples pizza salad beans cake eggs butter plums".split()
HOBBIES = "chess football tennis piano guitar violin golf hockey".split()
ITEMS = """lamp table chair clock book bottle phone knife jacket bag boat wheel mirror pencil hammer ladder basket candle
kettle pillow ring rope shovel umbrella box coat door drum engine flag garden gate hat key letter map needle oven pen
radio saw ship shoe stone sword tent tower train tree truck wagon watch window""".split()
PLACES = """house river forest harbour station market church school museum bridge castle valley island beach library kitchen
village factory hotel farm""".split()
ADJECTIVES = """old new small large quiet loud red blue green white black heavy light tall young slow fast clean dirty happy
sad cold warm wet dry long short round strong weak brave wise strange empty broken golden hidden famous""".split()
VERBS = """sees finds carries follows paints sells buys opens watches likes needs moves drops keeps loses repairs cleans
remembers forgets draws hides washes brings takes holds""".split()
PEOPLE = """captain sailor child farmer teacher baker doctor king queen driver painter writer singer neighbour friend
woman man girl boy student""".split()
SYLLABLES = [c + v for c in "b d f g k l m n p r s t v z br dr kr st tr sh".split() for v in "a e i o u ar en or ix".split()]


def held(key):
    """Whether what the key names is for evaluation alone: one in five."""
    return zlib.crc32(key.encode()) % 5 == 0


def draw(split, make, key=str):
    """The first of `make`'s values whose key belongs to the split."""
    while True:
        value = make()
        if held(key(value)) == (split == "held_out"):
            return value


def made_up(rng, capital=False):
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return word.capitalize() if capital else word


def letters(rng, low, high):
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(low, high)))


def digits(rng, low, high):
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def word(rng):
    """A word as users write them: mostly known, sometimes invented."""
    if rng.random() < 0.25:
        return made_up(rng)
    return rng.choice(rng.choice((ANIMALS, ITEMS, PLACES, ADJECTIVES, FOODS, PEOPLE, COLOURS, JOBS)))


def city(rng):
    return made_up(rng, True) if rng.random() < 0.25 else rng.choice(CITIES)


def name(rng):
    return made_up(rng, True) if rng.random() < 0.25 else rng.choice(NAMES)


def date(rng):
    return f"20{rng.randint(20, 35)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def time(rng):
    return f"{rng.randint(0, 23):02}:{rng.choice((0, 15, 30, 45)):02}"


def identifier(rng):
    return f"{letters(rng, 1, 2).upper()}{rng.choice(('-', ''))}{digits(rng, 2, 5)}"


def sentence(rng):
    """One of some millions of sentences without digits."""
    who = f"The {rng.choice(ADJECTIVES)} {rng.choice(PEOPLE + ANIMALS)}" if rng.random() < 0.7 else rng.choice(NAMES)
    what = f"{rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {rng.choice(ITEMS)}"
    where = f" {rng.choice(('in', 'near', 'behind', 'at'))} the {rng.choice(PLACES)}" if rng.random() < 0.6 else ""
    return f"{who} {what}{where}."


def joined(items):
    """a, b and c"""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def articles(text):
    """The text with "an" where the next word begins with a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
