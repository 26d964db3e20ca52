"""Tools that never existed: definitions, requests for them, the calls, and their results."""

from dataclasses import dataclass

import pools
from encoding import dumps


@dataclass(frozen=True)
class Kind:
    """A kind of argument: the names that it goes by, its schema, how to draw a value, and how users put it."""

    names: tuple
    schema: dict
    value: object
    phrases: tuple


STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))


def enum(*values):
    return {"type": "string", "enum": list(values)}


KINDS = {
    "city": Kind(("city", "location", "place", "town"), STRING, pools.city, ("in {v}", "for {v}", "in {v}")),
    "from": Kind(("origin", "from", "start"), STRING, pools.city, ("from {v}",)),
    "to": Kind(("destination", "to", "target"), STRING, pools.city, ("to {v}",)),
    "date": Kind(("date", "day", "when"), STRING, pools.date, ("on {v}", "for {v}")),
    "time": Kind(("time", "hour"), STRING, pools.time, ("at {v}",)),
    "person": Kind(("name", "person", "user", "customer", "recipient"), STRING, pools.name, ("for {v}", "of {v}")),
    "id": Kind(("id", "order_id", "ticket_id", "code", "reference"), STRING, pools.identifier,
               ("with {n} {v}", "{v}", "number {v}")),
    "topic": Kind(("query", "topic", "keyword", "subject", "term"), STRING, pools.word, ("about {v}", "on {v}", 'for "{v}"')),
    "text": Kind(("text", "message", "note", "content"), STRING, lambda rng: pools.sentence(rng)[:-1],
                 ('with {n} "{v}"', 'saying "{v}"')),
    "count": Kind(("count", "limit", "quantity", "number", "size"), INTEGER, lambda rng: rng.randint(1, 99),
                  ("with {n} {v}", "{n} {v}", "with a {n} of {v}")),
    "minutes": Kind(("minutes", "duration", "seconds", "days"), INTEGER, lambda rng: rng.randint(2, 120),
                    ("with {n} {v}", "{n} {v}")),
    "amount": Kind(("amount", "price", "value", "total"), NUMBER, lambda rng: rng.choice((rng.randint(1, 999), rng.randint(1, 999) / 10)),
                   ("with {n} {v}", "with an {n} of {v}")),
    "urgent": Kind(("urgent", "express", "private", "verbose"), BOOLEAN, lambda rng: rng.random() < 0.6, ("with {n} {v}", "{n} {v}")),
    "unit": Kind(("unit", "units", "scale"), enum("celsius", "fahrenheit"), None, ("in {v}",)),
    "level": Kind(("priority", "level"), enum("low", "medium", "high"), None, ("with {v} {n}", "with {n} {v}")),
    "color": Kind(("color", "colour"), STRING, lambda rng: rng.choice(pools.COLOURS), ("in {v}", "with {n} {v}")),
    "format": Kind(("format", "type"), enum("pdf", "csv", "text"), None, ("as {v}", "with {n} {v}")),
    "language": Kind(("language", "lang"), STRING, lambda rng: rng.choice(pools.LANGUAGES), ("in {v}", "with {n} {v}")),
    "word": Kind(("item", "product", "object", "title", "label"), STRING, pools.word, ('for "{v}"', "with {n} {v}", "for {v}")),
}

# Things that tools are about: the kinds of arguments that suit, the fields of a result, and questions that name neither
# a tool nor its arguments. The first kinds are required.
NATURAL = {
    "weather": ("city date unit", "sky temperature",
                ("What is the weather {city}", "How is the weather {city}", "What's the weather like {city}")),
    "temperature": ("city unit date", "temperature", ("What is the temperature {city}", "How warm is it {city}", "How cold is it {city}")),
    "forecast": ("city date", "sky wind", ("What is the forecast {city}", "Will it rain {city}")),
    "time": ("city", "time", ("What time is it {city}", "Tell me the time {city}")),
    "stock_price": ("id", "price", ("What is the stock price of {id}", "How much is the stock {id}")),
    "train": ("from to date", "price time", ("I need a train {from} {to}", "Is there a train {from} {to}")),
    "flight": ("from to date", "price time", ("I want to fly {from} {to}", "I need a flight {from} {to}")),
    "hotel": ("city date", "name price", ("I need a hotel {city}", "Where can I sleep {city}")),
    "restaurant": ("city time", "name", ("Where can I eat {city}", "I am hungry. Is there a restaurant {city}")),
    "email": ("person text", "status", ("Write an email {person} {text}", "I want to send an email {person} {text}")),
    "message": ("person text", "status", ("Send a message {person} {text}", "Text {person} {text}")),
    "reminder": ("text time date", "status", ("Remind me {time} {text}", "I want a reminder {time} {text}")),
    "meeting": ("person date time", "room status", ("I want to meet {person} {date}", "Set up a meeting {person} {date}")),
    "order": ("id", "status total", ("Where is my order {id}", "What is the state of order {id}")),
    "news": ("topic count", "title", ("What is new {topic}", "Any news {topic}")),
    "recipe": ("topic count", "title", ("How do I cook something {topic}", "What can I cook {topic}")),
    "timer": ("minutes", "status", ("I need a timer {minutes}",)),
    "music": ("topic", "status", ("I want to hear music {topic}",)),
    "population": ("city", "population", ("How many people live {city}", "What is the population {city}")),
    "distance": ("from to", "distance", ("How far is it {from} {to}", "What is the distance {from} {to}")),
    "translation": ("text language", "text", ("I need a translation {language} {text}",)),
    "exchange_rate": ("amount", "rate", ("What is the exchange rate {amount}",)),
    "light": ("color level", "status", ("I want light {color}",)),
}
NOUNS = """account address alarm appointment article balance bill book booking bus calendar car contact contract course
customer device document event file game gift group image invoice item job key label letter list map member menu movie note
package parking password payment person photo plan player playlist product profile project report reservation result review
room route schedule score song status stock student table task taxi team temperature ticket tour track traffic user video
visa warehouse website""".split()
FIELDS = "status count total price state code name title level size".split()
WORDS = {
    "get": ("Get", "Give me", "Show me", "I need", "Tell me"), "find": ("Find", "Find me", "I am looking for"),
    "search": ("Search", "Search for"), "lookup": ("Look up", "Please look up"), "fetch": ("Fetch", "Please fetch"),
    "check": ("Check", "Please check"), "show": ("Show", "Show me"), "read": ("Read", "Please read"),
    "create": ("Create", "Make", "I want to create"), "book": ("Book", "I want to book"), "add": ("Add", "Please add"),
    "set": ("Set", "Please set"), "update": ("Update", "Change"), "delete": ("Delete", "Remove"), "cancel": ("Cancel", "Please cancel"),
    "send": ("Send", "Please send"), "start": ("Start", "Please start"), "stop": ("Stop", "Please stop"), "open": ("Open", "Please open"),
    "close": ("Close", "Please close"), "order": ("Order", "I want to order"), "print": ("Print", "Please print"),
    "save": ("Save", "Please save"), "share": ("Share", "Please share"), "rate": ("Rate", "I want to rate"),
}


@dataclass(frozen=True)
class Tool:
    definition: dict
    verb: str
    noun: str
    arguments: tuple  # (name, Kind, kind, required)
    fields: tuple


def spoken(noun):
    return noun.replace("_", " ")


def tool_name(rng, verb, noun):
    style = rng.random()
    if style < 0.7:
        return f"{verb}_{noun}"
    if style < 0.8:
        return f"{noun}_{verb}"
    if style < 0.9:
        return verb + "".join(part.capitalize() for part in noun.split("_"))
    return noun


def make_tool(rng, split, noun=None):
    """A tool about the noun, or about anything; its name belongs to the split."""
    natural = rng.random() < 0.4 if noun is None else noun in NATURAL
    noun = noun or rng.choice(list(NATURAL) if natural else NOUNS)
    if rng.random() < 0.1:
        noun, natural = pools.made_up(rng), False
    if natural:
        kinds, fields, _ = NATURAL[noun]
        kinds, fields = kinds.split(), fields.split()
        if noun not in ("train", "flight"):
            kinds = kinds[: rng.randint(1, len(kinds))]
        verb = rng.choice(("get", "find", "search", "lookup", "fetch", "check", "show") if rng.random() < 0.8 else list(WORDS))
    else:
        kinds = rng.sample([kind for kind in KINDS if kind not in ("from", "to")], rng.choice((0, 1, 1, 1, 2, 2, 2, 3)))
        fields = rng.sample(FIELDS, rng.choice((1, 1, 2)))
        verb = rng.choice(list(WORDS))
    name = tool_name(rng, verb, noun)
    if pools.held(name) != (split == "held_out"):
        return make_tool(rng, split)
    arguments, seen = [], set()
    for index, kind in enumerate(kinds):
        argument = rng.choice(KINDS[kind].names)
        if argument not in seen:
            seen.add(argument)
            arguments.append((argument, KINDS[kind], kind, index == 0 or rng.random() < 0.5))
    described = rng.random() < 0.3
    properties = {
        argument: dict(kind.schema, description=f"The {spoken(argument)}") if described else kind.schema
        for argument, kind, _, _ in arguments
    }
    parameters = {"type": "object", "properties": properties}
    required = [argument for argument, _, _, needed in arguments if needed]
    if required:
        parameters["required"] = required
    description = rng.choice((f"{verb.capitalize()} the {spoken(noun)}", pools.articles(f"{verb.capitalize()} a {spoken(noun)}")))
    function = {"name": name, "description": description, "parameters": parameters}
    return Tool({"type": "function", "function": function}, verb, noun, tuple(arguments), tuple(fields))


def make_tools(rng, split, count):
    """Tools of different things, sometimes one that differs by its verb alone."""
    tools = [make_tool(rng, split)]
    while len(tools) < count:
        tool = make_tool(rng, split, tools[0].noun if rng.random() < 0.15 else None)
        if all((tool.verb, tool.noun) != (other.verb, other.noun) for other in tools):
            names = {other.definition["function"]["name"] for other in tools}
            if tool.definition["function"]["name"] not in names:
                tools.append(tool)
    rng.shuffle(tools)
    return tools


def make_value(rng, split, kind):
    if "enum" in kind.schema:
        return rng.choice(kind.schema["enum"])
    if kind.schema is not STRING or kind.names[0] in ("color", "language"):
        return kind.value(rng)
    return pools.draw(split, lambda: kind.value(rng))


def phrase(rng, argument, kind, value):
    spoken_value = str(value).lower() if isinstance(value, bool) else str(value)
    return rng.choice(kind.phrases).format(n=spoken(argument), v=spoken_value)


def make_request(rng, split, tool):
    """What the user says, and the arguments that follow from it."""
    given = [a for a in tool.arguments if a[3] or rng.random() < 0.5]
    values = {argument: make_value(rng, split, kind) for argument, kind, _, _ in given}
    phrases = {kind_name: phrase(rng, argument, kind, values[argument]) for argument, kind, kind_name, _ in given}
    style = rng.random()
    templates = [
        template
        for template in (NATURAL[tool.noun][2] if tool.noun in NATURAL else ())
        if all(f"{{{kind}}}" not in template or kind in phrases for kind in KINDS)
    ]
    if templates and style < 0.6:
        template = rng.choice(templates)
        text = template.format_map(phrases)
        rest = [value for kind, value in phrases.items() if f"{{{kind}}}" not in template]
        text = " ".join([text, *rest])
        text += "?" if template.split()[0] in ("What", "How", "What's", "Will", "Where", "Is", "Any") else "."
    elif style < 0.95:
        article = rng.choice(("the", "the", "a", "my")) + " "
        text = " ".join([rng.choice(WORDS[tool.verb]), pools.articles(article + spoken(tool.noun)), *phrases.values()]) + "."
    else:
        listed = ", ".join(f"{argument} {dumps(value) if not isinstance(value, str) else value}" for argument, value in values.items())
        text = f"Use {tool.definition['function']['name']}" + (f" with {listed}." if listed else ".")
    if rng.random() < 0.1:
        text = rng.choice(("Please: ", "Hello! ", "One more thing: ", "Hi. ")) + text
    if rng.random() < 0.08:
        text = text[0].lower() + text[1:].rstrip(".")
    return text, values


def field_value(rng, field):
    if field == "temperature":
        return rng.randint(-9, 39)
    if field in ("price", "total", "rate", "distance", "population", "count", "size", "wind"):
        return rng.randint(1, 999)
    if field == "time":
        return pools.time(rng)
    if field == "sky":
        return rng.choice(("sunny", "cloudy", "rainy", "windy", "clear", "snowy"))
    if field in ("status", "state"):
        return rng.choice(("ok", "done", "open", "closed", "ready", "on the way", "waiting"))
    if field in ("code", "room"):
        return pools.identifier(rng)
    return pools.name(rng) if field == "name" else pools.word(rng)


def make_result(rng, tool):
    """What the tool returns, and what an answer says about it."""
    style = rng.random()
    if style < 0.08:
        error = rng.choice(("not found", "no access", "out of order", "try again later"))
        return dumps({"error": error}), f"error {error}"
    values = {field: field_value(rng, field) for field in tool.fields}
    if style < 0.75:
        return dumps(values), ", ".join(f"{field} {value}" for field, value in values.items())
    if style < 0.9:
        value = str(next(iter(values.values())))
        return value, value
    text = ", ".join(f"{field}: {value}" for field, value in values.items())
    return text, ", ".join(f"{field} {value}" for field, value in values.items())


def tool_call(tool, arguments, number):
    function = {"name": tool.definition["function"]["name"], "arguments": dumps(arguments)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def thought(tool, arguments):
    """Names the tool and its arguments, so that the call only has to copy."""
    listed = ", ".join(f"{name} {value if isinstance(value, str) else dumps(value)}" for name, value in arguments.items())
    return f"I need {tool.definition['function']['name']}" + (f" with {listed}." if listed else ".")


def turn(rng, split, tools):
    """The messages of one request: question, calls, results, answer."""
    tool = rng.choice(tools)
    question, arguments = make_request(rng, split, tool)
    requests = [arguments]
    strings = [name for name, kind, _, _ in tool.arguments if name in arguments and kind.names[0] in ("city", "name", "id")]
    if len(strings) == 1 and str(arguments[strings[0]]) in question and rng.random() < 0.2:
        # The same for a second value: two calls.
        kind = next(kind for name, kind, _, _ in tool.arguments if name == strings[0])
        other = make_value(rng, split, kind)
        first = arguments[strings[0]]
        if other != first:
            question = question.replace(first, f"{first} and {other}", 1)
            requests.append({**arguments, strings[0]: other})
    calls = [tool_call(tool, request, index) for index, request in enumerate(requests)]
    thoughts = [thought(tool, request) for request in requests]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "reasoning_content": " ".join(thoughts), "tool_calls": calls},
    ]
    said = []
    for call, request in zip(calls, requests):
        result, summary = make_result(rng, tool)
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        said.append(f"{request[strings[0]]}: {summary}." if len(requests) > 1 else f"The {spoken(tool.noun)}: {summary}.")
    answer = {"role": "assistant", "reasoning_content": "I have the result.", "content": " ".join(said)}
    return [*messages, answer]
