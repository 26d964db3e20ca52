#!/usr/bin/env python3
"""The examples that the model learns from, made as they are needed: `sample` draws one.

What is for evaluation alone is decided by hashes of what makes an example new (a fact with a way to ask, a pair of
numbers, the name of a tool, a value), so that no training example can contain it.

    data.py           prints an example of every task
    data.py --check   checks that every example is what it claims to be
"""

import argparse
import json
import random
import re
from dataclasses import dataclass, field

import encoding
import pools
import tools
from encoding import dumps
from facts import REFUSAL, RELATIONS, SINGLE, SMALL_TALK


@dataclass
class Example:
    """A conversation, the answers included, or a text with a hole (`fim`: prefix, suffix, middle)."""

    task: str
    messages: list = field(default_factory=list)
    tools: list = field(default_factory=list)
    schema: dict | None = None
    thinking: bool = False
    fim: tuple | None = None

    @property
    def segments(self):
        """(text, weight of the loss): whole for what the model generates, little for what it reads."""
        parts = (
            encoding.fim(*self.fim)
            if self.fim
            else encoding.segments(self.messages, self.tools, self.schema, self.thinking)
        )
        if self.task == "calls":
            # Half of a tool prompt is the introduction, which is always the same: most calls are learned without it.
            parts = [(text.replace(encoding.TOOLS_INTRODUCTION, ""), generated) for text, generated in parts]
        return [(text, 1.0 if generated else PROMPT_WEIGHT) for text, generated in parts]


PROMPT_WEIGHT = 0.1

SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful Assistant.", "You are cachalot, a small model.", "Answer in one sentence.",
    "Be brief.", "You are a friendly assistant. Answer briefly.", "You answer questions.", "Be polite and helpful.",
)  # fmt: skip


def system(rng):
    """A system prompt that changes nothing."""
    if rng.random() < 0.7:
        return rng.choice(SYSTEMS)
    return rng.choice((f"You help {pools.name(rng)}.", f"Today is {pools.date(rng)}.", f"You work in a {rng.choice(pools.PLACES)}.",
        f"You are a {rng.choice(pools.ADJECTIVES)} assistant.", pools.sentence(rng)))  # fmt: skip


LEADS = ("Please tell me: ", "Quick question: ", "Hello! ", "A question: ", "Hi, ", "Now: ", "Tell me, ", "I wonder: ", "Next: ")


def say(question, answer, thought):
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "reasoning_content": thought},
    ]


def capital(text):
    return text[0].upper() + text[1:]


def varied(rng, question):
    """The question as one of many would type it."""
    style = rng.random()
    if style < 0.15:
        question = rng.choice(LEADS) + question
    elif style < 0.25:
        question = question[0].lower() + question[1:]
    elif style < 0.3 and question[-1] in "?.":
        question = question[:-1]
    elif style < 0.34:
        question += rng.choice((" Thanks.", " Thank you!", " Please answer."))
    return question


# Every fact as (key, question templates, statement, thought).
FACTS = [
    (
        f"{relation.name}/{x}",
        [capital(pools.articles(question.format(x=x))) for question in relation.questions],
        capital(pools.articles(relation.statement.format(x=x, y=y))),
        f"I know this: {y}.",
    )
    for relation in RELATIONS
    for x, y in relation.pairs
] + [(answer, list(questions), answer, "I know this.") for answer, *questions in SINGLE]


def ways_to_ask(key, questions, split):
    """Which of a fact's questions belong to the split. The first one, the usual way to ask, is always learned."""
    return [i for i in range(len(questions)) if (i > 0 and pools.held(f"{key}/{i}")) == (split == "held_out")]


WAYS = {split: [ways_to_ask(key, questions, split) for key, questions, _, _ in FACTS] for split in ("train", "held_out")}


def fact(rng, split):
    while True:
        index = rng.randrange(len(FACTS)) if rng.random() < 0.95 else rng.randrange(len(FACTS) - len(SINGLE), len(FACTS))
        if choices := WAYS[split][index]:
            break
    _, questions, statement, thought = FACTS[index]
    question = questions[0] if 0 in choices and rng.random() < 0.2 else questions[rng.choice(choices)]
    return say(varied(rng, question), statement, thought)


def small_talk(rng, split):
    answer, *questions = rng.choice(SMALL_TALK)
    return say(rng.choice(questions), answer, "This is small talk.")


OUTSIDE = (
    "Who won the {item} cup in {year}?", "Write a poem about {thing}.", "Write a song about a {adjective} {thing}.", "How do I repair a {item}?",
    "How old is {name} {surname}?", "Where does {name} {surname} live?", "Who is {name} {surname}?", "What is the capital of {place}?",
    "Translate {thing} into {language}.", "What happened in {year}?", "Who was king in {year}?", "Why is the {item} {adjective}?",
    "Explain {word} to me.", "What does {word} mean?", "What do you think about {thing}?", "Will it rain tomorrow?",
    "What is the weather in {city}?", "What time is it?", "How much does a {item} cost in {city}?", "Which {item} should I buy?",
    "How many people live in {city}?", "Who invented the {item}?", "When was the {item} invented?", "Write a program that sorts a {item}.",
    "What is the phone number of {name}?", "How far is it from {city} to {city2}?", "Recommend a book about {thing}.", "Is {name} at home?",
    "What is the best {item} of {year}?", "How do I cook {food}?", "Can you book a hotel in {city}?", "What is the meaning of {word}?",
    "Why do people like {food}?", "Who is the president of {place}?", "Summarise the history of {city}.", "What is the price of {food}?",
    "What is the name of my {animal}?", "Where is my {item}?", "What did {name} say about {thing}?", "Give me advice about {thing}.",
)  # fmt: skip


def refusal(rng, split):
    def make():
        return varied(rng, rng.choice(OUTSIDE).format(
            item=rng.choice(pools.ITEMS), year=rng.randint(1700, 2030), thing=pools.word(rng), adjective=rng.choice(pools.ADJECTIVES),
            name=pools.name(rng), surname=pools.made_up(rng, True), place=pools.made_up(rng, True), language=rng.choice(pools.LANGUAGES),
            word=pools.made_up(rng), city=pools.city(rng), city2=pools.city(rng), food=rng.choice(pools.FOODS),
            animal=rng.choice(pools.ANIMALS)))  # fmt: skip

    return say(pools.draw(split, make), REFUSAL, "I do not know this.")


def worked(a, sign, b):
    """Digit by digit, as on paper: the reasoning, and the result."""
    result = a + b if sign == "+" else a - b
    tens_a, ones_a, tens_b, ones_b = a // 10, a % 10, b // 10, b % 10
    if sign == "+":
        ones = ones_a + ones_b
        carry = ones // 10
        steps = f"{ones_a} + {ones_b} = {ones}, write {ones % 10}, carry {carry}; {tens_a} + {tens_b} + {carry} = {tens_a + tens_b + carry}"
    elif ones_a >= ones_b:
        steps = f"{ones_a} - {ones_b} = {ones_a - ones_b}, borrow 0; {tens_a} - {tens_b} - 0 = {tens_a - tens_b}"
    else:
        steps = f"1{ones_a} - {ones_b} = {10 + ones_a - ones_b}, borrow 1; {tens_a} - {tens_b} - 1 = {tens_a - tens_b - 1}"
    return f"{a} {sign} {b}: {steps}; {result}.", result


SUMS = (
    "What is {}?", "{}", "{} = ?", "Calculate {}.", "{}?", "Compute {}.", "How much is {}?", "What is {}?", "Please calculate {}.",
    "What does {} make?",
)  # fmt: skip


def typed(rng, a, sign, b):
    """A calculation as users type it."""
    style = rng.random()
    if style < 0.15:
        return f"{a}{sign}{b}"
    if style < 0.25:
        return f"{a} {dict(zip('+-*', ('plus', 'minus', 'times')))[sign]} {b}"
    return f"{a} {sign} {b}"


def two_digits(rng, split):
    def make():
        a, b, sign = rng.randint(10, 99), rng.randint(1, 99) if rng.random() < 0.1 else rng.randint(10, 99), rng.choice("+-")
        return (max(a, b), sign, min(a, b)) if sign == "-" else (a, sign, b)

    a, sign, b = pools.draw(split, make)
    thought, result = worked(a, sign, b)
    return say(rng.choice(SUMS).format(typed(rng, a, sign, b)), f"{a} {sign} {b} = {result}.", thought)


def one_digit(rng, split):
    a, b, sign = rng.randint(0, 10), rng.randint(0, 10), rng.choice("+-*")
    a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    text = f"{a} {sign} {b}"
    return say(rng.choice(SUMS).format(typed(rng, a, sign, b)), f"{text} = {result}.", f"{text} is {result}.")


def copied(rng):
    """Something to repeat: random, so that it can only be copied."""
    return rng.choice((
        lambda: pools.letters(rng, 4, 12),
        lambda: pools.digits(rng, 4, 12),
        lambda: pools.identifier(rng),
        lambda: pools.sentence(rng),
        lambda: " ".join(pools.word(rng) for _ in range(rng.randint(2, 7))),
        lambda: " ".join(pools.made_up(rng) for _ in range(rng.randint(1, 4))),
        lambda: f"{pools.name(rng)} {pools.made_up(rng, True)}",
    ))()  # fmt: skip


def listed(rng, low=3, high=6):
    make = rng.choice((pools.word, pools.made_up, lambda r: pools.letters(r, 1, 3), lambda r: str(r.randint(0, 99))))
    items = []
    while len(items) < high:
        if (item := make(rng)) not in items:
            items.append(item)
    return items[: rng.randint(low, high)]


COPIES = (
    "Repeat: {}", "Repeat this: {}", "Copy: {}", "Say {}", "Write this again: {}", 'Repeat "{}".', "Please repeat after me: {}",
    "Echo {}",
)  # fmt: skip
REVERSALS = ("Reverse the list: {}", "Reverse: {}", "Write this list backwards: {}", "Turn the list around: {}")
NTH = ("first", "second", "third", "last")


def copy(rng, split):
    def make():
        style = rng.random()
        if style < 0.4:
            text = copied(rng)
            return rng.choice(COPIES).format(text), text
        items = listed(rng)
        text = ", ".join(items)
        if style < 0.55:
            return rng.choice(REVERSALS).format(text), ", ".join(reversed(items))
        if style < 0.65:
            nth = rng.choice(NTH)
            item = items[-1] if nth == "last" else items[NTH.index(nth)]
            ask = rng.choice(("What is the {} item of the list: {}", "The {} item of: {}", "Give me the {} item: {}"))
            return ask.format(nth, text), item
        if style < 0.72:
            return rng.choice(("Count the items: {}", "How many items are in the list: {}", "How many: {}")).format(text), str(len(items))
        if style < 0.8:
            numbers = [rng.randint(1, 99) for _ in range(rng.randint(3, 5))]
            text = ", ".join(map(str, numbers))
            return rng.choice(("Sort: {}", "Sort the numbers: {}", "Put in order: {}")).format(text), ", ".join(map(str, sorted(numbers)))
        if style < 0.86:
            item = items[rng.randrange(len(items) - 1)]
            ask = rng.choice(("What comes after {} in the list: {}", "Which item follows {}: {}"))
            return ask.format(item, text), items[items.index(item) + 1]
        if style < 0.92:
            letters = rng.choice((pools.word(rng), pools.letters(rng, 3, 6)))
            return rng.choice(("Spell {}.", "Spell the word {}.", "Write {} letter by letter.")).format(letters), "-".join(letters)
        if style < 0.96:
            start = rng.randint(0, 90)
            numbers = ", ".join(str(i) for i in range(start, start + rng.randint(3, 8)))
            first, last = numbers.split(", ")[0], numbers.split(", ")[-1]
            return f"Count from {first} to {last}.", numbers
        return rng.choice(("Join with dashes: {}", "Put dashes between: {}")).format(text), "-".join(items)

    question, answer = pools.draw(split, make, lambda pair: pair[0])
    return say(question, answer, "I read and copy.")


def needle(rng, split, room):
    """Codes among sentences that have nothing to do with them, and a question about one of the codes."""
    kind = rng.choice(("code", "code", "code", "password", "number", "key"))
    target = rng.randint(90, max(100, room - 60))
    things, count = [], rng.choice((1, 2, 2, 3, 4))
    while len(things) < count:
        thing = rng.choice((rng.choice(pools.ITEMS), pools.word(rng), pools.made_up(rng)))
        if thing not in things:
            things.append(thing)
    secret = lambda: pools.digits(rng, 4, 6) if rng.random() < 0.8 else pools.word(rng)
    codes = {thing: pools.draw(split, secret) for thing in things}
    needles = [f"The secret {kind} of the {thing} is {code}." for thing, code in codes.items()]
    size, text = sum(map(estimate, needles)), []
    while size < target:
        text.append(pools.sentence(rng))
        size += estimate(text[-1])
    for line in needles:
        text.insert(rng.randint(0, len(text)), line)
    thing = rng.choice(things)
    ask = rng.choice((
        "What is the secret {} of the {}?", "What is the secret {} of the {}?", "Tell me the secret {} of the {}.",
        "Which secret {} does the {} have?", "Find the secret {} of the {}."))  # fmt: skip
    question = ask.format(kind, thing)
    body = " ".join(text)
    content = f"{question}\n\n{body}" if rng.random() < 0.1 else f"{body}{rng.choice((' ', chr(10), chr(10) * 2))}{question}"
    return say(content, f"The secret {kind} of the {thing} is {codes[thing]}.", f"I look for the {thing}: {codes[thing]}.")


# What is told, what is answered, and later the question and its answer; entries of one key exclude each other.
MEMORIES = (
    ("name", "My name is {}.", "Nice to meet you, {}.", "What is my name?", "Your name is {}.", pools.name),
    ("name", "I am {}.", "Nice to meet you, {}.", "Who am I?", "You are {}.", pools.name),
    ("number", "Remember the number {}.", "I remember the number {}.", "Which number should you remember?", "The number is {}.",
     lambda rng: pools.digits(rng, 2, 6)),
    ("word", "Remember the word {}.", "I remember the word {}.", "Which word should you remember?", "The word is {}.", pools.word),
    ("city", "I live in {}.", "You live in {}.", "Where do I live?", "You live in {}.", pools.city),
    ("colour", "My favourite colour is {}.", "Your favourite colour is {}.", "What is my favourite colour?",
     "Your favourite colour is {}.", lambda rng: rng.choice(pools.COLOURS)),
    ("pet", "My {} is called {}.", "Your {} is called {}.", "What is the name of my {}?", "Your {} is called {}.", pools.name),
)  # fmt: skip


def chat(rng, split, room):
    """Several turns, some of which refer to an earlier one."""
    messages, remembered = [], []
    turns = rng.randint(2, 4)
    for _ in range(turns):
        style = rng.random()
        if style < 0.4 and len(remembered) < 2:
            key, told, answer, question, reply, make = rng.choice(MEMORIES)
            if key not in [other for other, _, _ in remembered]:
                values = (rng.choice(pools.ANIMALS), make(rng)) if key == "pet" else (make(rng),)
                remembered.append((key, question.format(*values), reply.format(*values)))
                messages += say(told.format(*values), answer.format(*values), "I keep this in mind.")
        elif style < 0.55:
            messages += fact(rng, split)
        elif style < 0.7:
            messages += small_talk(rng, split)
        elif style < 0.8:
            messages += one_digit(rng, split)
        else:
            messages += copy(rng, split)
    for _, question, reply in remembered:
        messages += say(question, reply, "I was told this.")
    return messages or fact(rng, split)


PERSON = (
    ("age", "integer", "is {} years old", lambda rng: rng.randint(3, 99)),
    ("city", "string", "lives in {}", pools.city),
    ("job", "string", "works as a {}", lambda rng: rng.choice(pools.JOBS)),
    ("hobby", "string", "plays {}", lambda rng: rng.choice(pools.HOBBIES)),
    ("pet", "string", "has a {}", lambda rng: rng.choice(pools.ANIMALS)),
    ("food", "string", "eats {}", lambda rng: rng.choice(pools.FOODS)),
    ("height", "integer", "is {} cm tall", lambda rng: rng.randint(90, 199)),
    ("birth_year", "integer", "was born in {}", lambda rng: rng.randint(1930, 2020)),
    ("children", "integer", "has {} children", lambda rng: rng.randint(2, 9)),
    ("languages", "array", "speaks {}", lambda rng: rng.sample(pools.LANGUAGES, rng.randint(2, 3))),
    ("married", "boolean", "is {}married", lambda rng: rng.random() < 0.5),
    ("phone", "string", "has the phone number {}", lambda rng: pools.digits(rng, 5, 7)),
)  # fmt: skip
PRODUCT = (
    ("price", "number", "costs {} euros", lambda rng: rng.choice((rng.randint(1, 999), rng.randint(11, 999) / 10))),
    ("color", "string", "is {}", lambda rng: rng.choice(pools.COLOURS)),
    ("weight", "integer", "weighs {} grams", lambda rng: rng.randint(5, 999)),
    ("id", "string", "has the number {}", pools.identifier),
    ("stock", "integer", "is there {} times", lambda rng: rng.randint(2, 99)),
    ("available", "boolean", "is {}available", lambda rng: rng.random() < 0.5),
    ("colors", "array", "comes in {}", lambda rng: rng.sample(pools.COLOURS, rng.randint(2, 4))),
    ("origin", "string", "is made in {}", pools.city),
)  # fmt: skip
EVENT = (
    ("date", "string", "is on {}", pools.date),
    ("time", "string", "starts at {}", pools.time),
    ("city", "string", "is in {}", pools.city),
    ("guests", "integer", "has {} guests", lambda rng: rng.randint(2, 99)),
    ("host", "string", "is led by {}", pools.name),
    ("topics", "array", "is about {}", lambda rng: rng.sample(pools.ITEMS, rng.randint(2, 3))),
)  # fmt: skip
ENTITIES = (
    ("name", pools.name, "{}", PERSON),
    ("product", lambda rng: rng.choice((rng.choice(pools.ITEMS), pools.word(rng))), "The {}", PRODUCT),
    ("event", lambda rng: rng.choice(("meeting", "party", "concert", "lesson", "match", "dinner", pools.made_up(rng))), "The {}", EVENT),
)
SAMPLES = {"string": "text", "integer": 0, "number": 0.5, "boolean": True, "array": ["text"]}


def clause(text, value):
    if isinstance(value, bool):
        return text.format("" if value else "not ")
    return text.format(pools.joined(value) if isinstance(value, list) else value)


def described(rng, key, make, subject, attributes):
    """A sentence about something, what it says as an object, and the types of its values."""
    value = make(rng)
    chosen = rng.sample(attributes, rng.randint(1, min(4, len(attributes))))
    values, kinds, clauses = {key: value}, {key: "string"}, []
    for name, kind, text, draw in chosen:
        values[name], kinds[name] = draw(rng), kind
        clauses.append(clause(text, values[name]))
    return f"{subject.format(value)} {pools.joined(clauses)}.", values, kinds


def schema_of(value, kinds):
    properties = {
        key: {"type": "array", "items": {"type": "string"}} if kinds[key] == "array" else {"type": kinds[key]} for key in value
    }
    return {"type": "object", "properties": properties, "required": list(value)}


def json_answer(rng, split):
    """A sentence, the shape that is asked for, and the JSON. Returns (messages, schema)."""

    def make():
        style = rng.random()
        schema = system = None
        if style < 0.15:
            if rng.random() < 0.6:
                items = [pools.word(rng) for _ in range(rng.randint(2, 5))]
            else:
                items = [rng.randint(0, 99) for _ in range(rng.randint(2, 6))]
            key = rng.choice(("items", "values", "list", "words", "things", "result"))
            text = pools.joined([str(item) for item in items])
            if rng.random() < 0.5:
                return f"{text} as a JSON array.", dumps(items), None, None
            return f'{text} as JSON under the key "{key}".', dumps({key: items}), None, None
        entity = rng.choice(ENTITIES)
        sentence, values, kinds = described(rng, *entity)
        keys = list(values)
        if style < 0.3:
            # Two of a kind: an array of objects with the keys of both.
            key, make_value, subject, attributes = entity
            chosen = rng.sample(attributes, rng.randint(1, 2))
            objects, sentences = [], []
            for _ in range(2):
                value = make_value(rng)
                drawn = [(name, text, draw(rng)) for name, _, text, draw in chosen]
                sentences.append(f"{subject.format(value)} {pools.joined([clause(text, v) for _, text, v in drawn])}.")
                objects.append({key: value} | {name: v for name, _, v in drawn})
            keys = list(objects[0])
            sentence, answer = " ".join(sentences), objects
            ask = f"as a JSON array with {pools.joined(keys)}"
            question = f"{sentence} Give me this {ask}." if rng.random() < 0.5 else f"Write {ask}: {sentence}"
            return question, dumps(answer), None, None
        if style < 0.7:
            rng.shuffle(keys)
            keys = keys[: rng.randint(1, len(keys))]
        answer = {key: values[key] for key in keys}
        names = pools.joined(keys)
        if style < 0.4:
            outer = rng.choice(("data", "result", "person", "item", "answer", "entry"))
            ask, answer = f'Give me {names} as JSON under the key "{outer}".', {outer: answer}
        elif style < 0.5:
            ask = f"Answer with JSON like {dumps({key: SAMPLES[kinds[key]] for key in keys})}."
        elif style < 0.6:
            schema, ask = schema_of(answer, kinds), ""
        elif style < 0.7:
            system, ask = f"Answer in JSON with the keys {names}.", ""
        else:
            ask = rng.choice((
                "Give me {} as JSON.", "Answer in JSON with the keys {}.", "Extract {} as JSON.", "JSON with {}.", "Write {} as JSON.",
                "As a JSON object with the keys {}.")).format(names)  # fmt: skip
        question = f"{sentence} {ask}".strip() if rng.random() < 0.6 else f"{ask} {sentence}".strip()
        return question, dumps(answer), schema, system

    question, answer, schema, system = pools.draw(split, make, lambda parts: parts[0])
    messages = say(question, answer, "I answer in JSON.")
    return ([{"role": "system", "content": system}] if system else []) + messages, schema


def tool_turns(rng, split):
    """Requests that tools answer, or that none does. Returns (messages, definitions)."""
    count = rng.choice((1, 2, 2, 3, 3, 4))
    chosen = tools.make_tools(rng, split, count)
    messages = []
    for _ in range(1 if split == "held_out" else rng.choice((1, 2, 2, 3))):
        if rng.random() < 0.1:
            messages += rng.choice((fact, small_talk, one_digit))(rng, split)
            messages[-1]["reasoning_content"] = "No tool fits."
        else:
            messages += tools.turn(rng, split, chosen)
    return messages, [tool.definition for tool in chosen]


def code_lines(rng):
    name, other, a, b = pools.word(rng), pools.word(rng), rng.randint(0, 99), rng.randint(0, 99)
    return rng.choice((
        f"{name} = {a}\n{other} = {b}\nprint({name} + {other})\n",
        f"def {name}({other}):\n    return {other} + {a}\n\nprint({name}({b}))\n",
        f"for {name} in range({a}):\n    print({name})\n",
        f"if {name} > {a}:\n    {other} = {name}\nelse:\n    {other} = {a}\n",
        f"let {name} = {a};\nlet {other} = {name} + {b};\nprintln!(\"{{{other}}}\");\n",
    ))  # fmt: skip


def fim(rng, split):
    def make():
        style = rng.random()
        if style < 0.4:
            text = " ".join(fact(rng, "train")[1]["content"] for _ in range(rng.randint(1, 3)))
        elif style < 0.6:
            start, step = rng.randint(0, 80), rng.choice((1, 1, 2, 5, 10))
            text = ", ".join(str(start + step * i) for i in range(rng.randint(5, 9)))
        elif style < 0.85:
            text = code_lines(rng)
        else:
            line = f"{rng.choice(('name', 'code', 'word'))}: {pools.word(rng)}\n"
            text = "\n".join([line.strip()] * rng.randint(2, 4)) + "\n"
        # Cuts between words, a word to a third of the text apart.
        cuts = [match.start() for match in re.finditer(r"(?<=\w)\b|\b(?=\w)", text)]
        first = rng.randrange(1, max(2, len(cuts) - 1))
        last = min(len(cuts) - 1, first + rng.randint(1, 6))
        return text[: cuts[first]], text[cuts[last] :], text[cuts[first] : cuts[last]]

    return pools.draw(split, make, "\0".join)


# Share of the tokens, mean length of an example in tokens (a little, so that shares can be drawn by example), and the
# room below which the task cannot be done.
TASKS = {
    "facts": (0.18, 28, 0),
    "refusal": (0.02, 35, 0),
    "small_talk": (0.01, 22, 0),
    "arithmetic": (0.08, 60, 100),
    "sums": (0.02, 28, 0),
    "copy": (0.13, 45, 120),
    "chat": (0.05, 110, 200),
    "json": (0.11, 90, 250),
    "fim": (0.04, 40, 0),
    "needle": (0.12, 300, 160),
    "calls": (0.13, 290, 200),
    "tools": (0.13, 560, 480),
}
# How often the assistant thinks, where it is not one time in ten.
THINKING = {"facts": 0.15, "arithmetic": 0.85, "sums": 0.2, "copy": 0.07, "chat": 0.15, "needle": 0.12, "calls": 0.4, "tools": 0.4}
PIECES = re.compile(r"｜DSML｜|<[^<>\s]*｜>|\d|[A-Za-z]+|[^\sA-Za-z\d｜]+|\n+")


def estimate(text):
    """About how many tokens the text has."""
    return int(1.1 * len(PIECES.findall(text)))


def make_example(rng, task, split, max_tokens):
    example = Example(task, thinking=rng.random() < THINKING.get(task, 0.1))
    if task == "fim":
        example.fim = fim(rng, split)
        return example
    if task in ("calls", "tools"):
        example.messages, example.tools = tool_turns(rng, split)
    elif task == "json":
        example.messages, example.schema = json_answer(rng, split)
    elif task in ("chat", "needle"):
        example.messages = {"chat": chat, "needle": needle}[task](rng, split, max_tokens)
    else:
        makers = {"facts": fact, "refusal": refusal, "small_talk": small_talk, "arithmetic": two_digits, "sums": one_digit, "copy": copy}
        example.messages = makers[task](rng, split)
    if rng.random() < 0.25 and example.messages[0]["role"] != "system":
        example.messages.insert(0, {"role": "system", "content": system(rng)})
    return example


def sample(rng, *, max_tokens=1024, split="train", mix=None):
    """An example of about `max_tokens` at most; `mix` is the share of tokens of each task, TASKS' if not given."""
    shares = mix or {task: share for task, (share, _, _) in TASKS.items()}
    names = [task for task in shares if TASKS[task][2] <= max_tokens]
    # A needle fills its room; everything else has its usual length.
    lengths = {task: (80 + max_tokens) / 2 if task == "needle" else TASKS[task][1] for task in names}
    task = rng.choices(names, [shares[task] / lengths[task] for task in names])[0]
    while True:
        example = make_example(rng, task, split, max_tokens)
        if sum(estimate(text) for text, _ in example.segments) <= max_tokens:
            return example


def encode(tokenizer, example):
    """Token ids and the weight of each. Segments meet at control tokens, so they are encoded one by one."""
    ids, weights = [], []
    for text, weight in example.segments:
        part = tokenizer.encode(text, add_special_tokens=False).ids
        ids += part
        weights += [weight] * len(part)
    return ids, weights


def check_answers(example):
    """That the answers hold what the questions ask for."""
    for question, answer in zip(example.messages, example.messages[1:]):
        if answer["role"] != "assistant" or question["role"] != "user":
            continue
        for call in answer.get("tool_calls", ()):
            named = [tool["function"] for tool in example.tools if tool["function"]["name"] == call["function"]["name"]]
            arguments = json.loads(call["function"]["arguments"])
            parameters = named[0]["parameters"]
            assert set(parameters.get("required", ())) <= set(arguments) <= set(parameters["properties"]), answer
            for key, value in arguments.items():
                assert value in parameters["properties"][key].get("enum", [value]), answer
                assert isinstance(value, bool) or str(value) in question["content"] or len(answer["tool_calls"]) > 1, answer
        if example.task == "json":
            json.loads(answer["content"])
        if example.task == "needle":
            assert answer["content"] in question["content"], answer


def check():
    """Draws many examples of both splits and fails at the first that is not as it has to be."""
    seen = {}
    for split in ("train", "held_out"):
        rng = random.Random(1)
        seen[split] = set()
        for max_tokens in (256, 512, 1024):
            for _ in range(10000):
                example = sample(rng, max_tokens=max_tokens, split=split)
                check_answers(example)
                text = "".join(text for text, _ in example.segments)
                assert text.startswith(encoding.BOS) and text.endswith(encoding.EOS)
                if example.task in ("facts", "refusal", "arithmetic", "copy", "json", "needle"):
                    seen[split].add(example.messages[-2]["content"])
                names = {call["function"]["name"] for message in example.messages for call in message.get("tool_calls", ())}
                seen[split] |= {f"tool {name}" for name in names}
    assert not seen["train"] & seen["held_out"], sorted(seen["train"] & seen["held_out"])[:10]
    again = [sample(random.Random(7)).segments for _ in range(2)]
    assert again[0] == again[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="check examples instead of printing them")
    if parser.parse_args().check:
        return check()
    rng = random.Random(1)
    for task in TASKS:
        example = sample(rng, mix={task: 1.0}, max_tokens=700)
        print(f"--- {task}", "".join(text for text, _ in example.segments), sep="\n")


if __name__ == "__main__":
    main()
