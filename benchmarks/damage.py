"""Ways to damage what files hold, each drawn at random."""

import copy
import json
import random
from collections.abc import Callable

Attempt = Callable[[random.Random], str]  # damages something and loads it: "counted" or "right"; or raises
SIZE = (40, 60)
DEEP = "[" * 100_000 + "]" * 100_000
ODD = (None, True, -1, 0, 7, 1e308, 2**70, "", "x", "\ud800", "\x1b[31m", [], {}, [[]], {"x": 1}, [None])


class Changed(Exception):
    """What loaded is not what the file says."""


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Up to four places flipped, cut or doubled."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        start = rng.randrange(len(data) + 1)
        end = start + rng.choice([1, 1, 2, 4, 30, len(data)])
        match rng.choice(["flip", "cut", "double"]):
            case "flip" if start < len(data):
                data[start] ^= 1 << rng.randrange(8)
            case "cut":
                del data[start:end]
            case "double":
                data[start:start] = data[start:end]
    return bytes(data)


def damage_values(found: object, rng: random.Random) -> object:
    """One to three values of nested lists and dicts swapped, left out, doubled or made others."""
    found = copy.deepcopy(found)
    for _ in range(rng.choice([1, 1, 2, 3])):
        holders: list = []
        waiting = [found]
        while waiting:
            here = waiting.pop()
            if isinstance(here, dict | list) and here:
                holders.append(here)
                waiting += here.values() if isinstance(here, dict) else here
        if not holders:
            return found
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key, other = rng.choice(keys), rng.choice(keys)
        match rng.choice(["swap", "drop", "double", "other", "other"]):
            case "swap":
                holder[key], holder[other] = holder[other], holder[key]
            case "drop":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(ODD))
    return found


def damage_json(found: object, rng: random.Random) -> bytes:
    """The text of a JSON file that was damaged as text, as values, or by a value nested without end."""
    way = rng.random()
    if way < 0.4:
        return damage_bytes(json.dumps(found).encode(), rng)
    text = json.dumps(damage_values(found, rng))
    if way < 0.5:  # at the limit of what can be read, too
        deep = DEEP if rng.random() < 0.5 else "[" * (n := rng.randint(850, 1000)) + "]" * n
        text = text.replace(rng.choice(["null", "1", '""', "[]", "{"]), deep, 1)
    return text.encode()
