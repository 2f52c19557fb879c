"""What people would write about a drawn scene: captions for training, and expressions that fit one object only."""

from dataclasses import dataclass

import numpy as np

from attrbind_exp.pretrain.scenes import Object, Scene

PREFIX = "a photograph of "
NUMBERS = {2: "two", 3: "three", 4: "four"}
Rng = np.random.Generator


def place_word(obj: Object) -> str:
    """Where in the picture the object lies, in words. Left and right go before top and bottom."""
    if obj.x < 0.36:
        return "on the left"
    if obj.x > 0.64:
        return "on the right"
    if obj.y < 0.36:
        return "at the top"
    if obj.y > 0.64:
        return "at the bottom"
    return "in the middle"


def relation_word(rng: Rng, a: Object, b: Object) -> str:
    """How a lies to b, in words that are true: "next to", else the direction of the larger offset."""
    if rng.random() < 0.3:
        return "next to"
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def noun_phrase(rng: Rng, obj: Object, colour: bool, article: str | None = None) -> str:
    """A noun phrase: "a white star", "the star", "white star". The article is drawn at random unless it is given.

    `colour`: whether the colour is named.
    """
    if article is None:
        article = str(rng.choice(["a ", "the ", ""], p=[0.5, 0.35, 0.15]))
    words = f"{obj.colour} {obj.shape}" if colour else obj.shape
    return "an " + words if article == "a " and words[0] in "aeiou" else article + words


def related(phrase: str, relation: str, other: str, last: bool) -> str:
    """The phrase with its relation: "the star above a moon", or, with `last`, "above a moon, the star"."""
    return f"{relation} {other}, {phrase}" if last else f"{phrase} {relation} {other}"


def says_colour(rng: Rng, obj: Object) -> bool:
    """Whether a caption names the object's colour, drawn at random. A usual colour is named less often."""
    return bool(rng.random() < (0.4 if obj.pair == "usual" else 0.65))


def training_caption(rng: Rng, scene: Scene) -> str:
    """A caption as people write them, drawn at random.

    Six in ten captions name all objects, two in ten name two, two in ten name one. A colour is named in 40 % of the
    phrases where it is the shape's usual one, and in 65 % otherwise. "a photograph of" stands before six captions in
    ten.
    """
    objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    mentioned = objects[: rng.choice([1, 2, 4], p=[0.2, 0.2, 0.6])]
    phrases = [noun_phrase(rng, o, says_colour(rng, o)) for o in mentioned]
    same = [o for o in objects if o.shape == objects[0].shape]
    if len(same) > 1 and rng.random() < 0.06:
        caption = f"{NUMBERS[len(same)]} {plural(same[0].shape)}"
    elif len(mentioned) == 1:
        caption = phrases[0] + (f" {place_word(mentioned[0])}" if rng.random() < 0.25 else "")
    elif len(mentioned) == 2 and rng.random() < 0.6:
        caption = related(phrases[0], relation_word(rng, *mentioned), phrases[1], rng.random() < 0.3)
    else:
        caption = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return PREFIX + caption if rng.random() < 0.6 else caption


def jumble(rng: Rng, caption: str) -> str:
    """The caption's words in random order, like the keywords in many of the alternative texts that CLIP learned
    from."""
    return " ".join(rng.permutation(caption.replace(",", "").split()))


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


@dataclass(frozen=True)
class Reference:
    """An expression that fits one object of its scene only.

    `kind`: what tells the object from others: "colour", "position", "relation", or "plain" where its shape does.
    `order`: where the object's noun stands: "one_noun", "target_first" or "target_second". `chunk`: its noun chunk, as
    (start, end) characters of the text.
    """

    text: str
    kind: str
    order: str
    chunk: tuple[int, int]


def refer(phrase: str, kind: str, place: str = "") -> Reference:
    """An expression with one noun: a phrase, and a place where one is given."""
    return Reference(f"{phrase} {place}".strip(), kind, "one_noun", (0, len(phrase)))


def refer_by_relation(rng: Rng, target: Object, other: Object, last: bool) -> Reference:
    """An expression with two nouns and both colours: "the white star above the red moon", or, with `last`, "above the
    red moon, the white star"."""
    phrase, relation = noun_phrase(rng, target, True, "the "), relation_word(rng, target, other)
    text = related(phrase, relation, noun_phrase(rng, other, True), last)
    start = len(text) - len(phrase) if last else 0
    return Reference(text, "relation", "target_second" if last else "target_first", (start, start + len(phrase)))


def references(rng: Rng, scene: Scene, target: Object) -> list[Reference]:
    """One expression of every kind that fits `target` and no other object of the scene.

    colour: "the white star"; relation, once with either noun first: "the red circle next to a blue square" and "next to
    a blue square, the red circle"; plain: "the star"; position: "the star on the left", with or without its colour.
    """
    others = [o for o in scene.objects if o is not target]
    same_shape = [o for o in others if o.shape == target.shape]
    found: list[Reference] = []
    if all(o.colour != target.colour for o in same_shape):
        found.append(refer(noun_phrase(rng, target, True, "the "), "colour"))
        # The other noun is the hardest one: another object of the same shape, where there is one.
        beside = same_shape or others
        for last in (False, True):
            for i in rng.permutation(len(beside))[:1]:
                found.append(refer_by_relation(rng, target, beside[i], last))
    if not same_shape:
        found.append(refer(noun_phrase(rng, target, False, "the "), "plain"))
    place = place_word(target)
    named = rng.random() < 0.5
    rivals = [o for o in same_shape if not named or o.colour == target.colour]
    if place != "in the middle" and all(stands_out(target, o, place) for o in rivals):
        found.append(refer(noun_phrase(rng, target, named, "the "), "position", place))
    return found


def stands_out(target: Object, rival: Object, place: str) -> bool:
    """Whether the target lies clearly further in the named direction than its rival."""
    dx, dy = target.x - rival.x, target.y - rival.y
    step = {"on the left": -dx, "on the right": dx, "at the top": -dy, "at the bottom": dy}[place]
    return step > 0.15
