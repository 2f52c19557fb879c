"""What people would write under a drawn scene: training captions, and expressions that single out one object."""

from dataclasses import dataclass

import numpy as np

from attrbind_exp.pretrain.scenes import Object, Scene

PREFIX = "a photograph of "
NUMBERS = {2: "two", 3: "three", 4: "four"}
Rng = np.random.Generator


def place_word(obj: Object) -> str:
    """Where in the picture the object lies; the sides come first."""
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
    """A true relation of a to b; the larger offset names the direction."""
    if rng.random() < 0.3:
        return "next to"
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def noun_phrase(rng: Rng, obj: Object, colour: bool, article: str | None = None) -> str:
    """ "a white star", "the star", "white star": article drawn unless given."""
    if article is None:
        article = str(rng.choice(["a ", "the ", ""], p=[0.5, 0.35, 0.15]))
    words = f"{obj.colour} {obj.shape}" if colour else obj.shape
    return "an " + words if article == "a " and words[0] in "aeiou" else article + words


def training_caption(rng: Rng, scene: Scene) -> str:
    """A caption of all objects, or of one or two; colours named four times in five, "a photograph of" six in ten."""
    objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    mentioned = objects[: rng.choice([1, 2, 4], p=[0.25, 0.2, 0.55])]
    same = [o for o in objects if o.shape == objects[0].shape]
    if len(same) > 1 and rng.random() < 0.06:
        caption = f"{NUMBERS[len(same)]} {plural(same[0].shape)}"
    elif len(mentioned) == 1:
        caption = noun_phrase(rng, mentioned[0], rng.random() < 0.8)
        if rng.random() < 0.25:
            caption += f" {place_word(mentioned[0])}"
    elif len(mentioned) == 2 and rng.random() < 0.6:
        a, b = (noun_phrase(rng, o, rng.random() < 0.85) for o in mentioned)
        caption = f"{a} {relation_word(rng, *mentioned)} {b}"
    else:
        phrases = [noun_phrase(rng, o, rng.random() < 0.85) for o in mentioned]
        caption = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return PREFIX + caption if rng.random() < 0.6 else caption


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


@dataclass(frozen=True)
class Reference:
    """An expression that fits one object of its scene only. `kind`: colour, position, relation or plain."""

    text: str
    kind: str


def references(rng: Rng, scene: Scene, target: Object) -> list[Reference]:
    """Every kind of expression that singles out `target`, in random order; empty if none does.

    colour: "the white star"; position: "the (white) star on the left"; relation: "a red circle next to a blue square";
    plain: "the star".
    """
    others = [o for o in scene.objects if o is not target]
    same_shape = [o for o in others if o.shape == target.shape]
    found: list[Reference] = []
    if all(o.colour != target.colour for o in same_shape):
        found.append(Reference(noun_phrase(rng, target, True), "colour"))
        for other in rng.permutation(len(others))[:1]:
            other = others[other]
            words = f"{noun_phrase(rng, target, True)} {relation_word(rng, target, other)} "
            found.append(Reference(words + noun_phrase(rng, other, True), "relation"))
    if not same_shape:
        found.append(Reference(noun_phrase(rng, target, False), "plain"))
    place = place_word(target)
    named = rng.random() < 0.6
    rivals = [o for o in same_shape if not named or o.colour == target.colour]
    if place != "in the middle" and all(stands_out(target, o, place) for o in rivals):
        found.append(Reference(f"{noun_phrase(rng, target, named)} {place}", "position"))
    return [found[i] for i in rng.permutation(len(found))]


def stands_out(target: Object, rival: Object, place: str) -> bool:
    """Is the target clearly further in the named direction than its rival?"""
    dx, dy = target.x - rival.x, target.y - rival.y
    step = {"on the left": -dx, "on the right": dx, "at the top": -dy, "at the bottom": dy}[place]
    return step > 0.15
