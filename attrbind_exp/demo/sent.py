"""What is sent to the browser, once for an expression: sliders, masks, hover and differences are made of it there."""

import base64
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from attrbind_exp.demo import compute
from attrbind_exp.demo.compute import LEVELS, Compared, Seen
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.edits.variant import BASELINE
from attrbind_exp.reporting import maps
from attrbind_exp.runs.shown import clean

Sent = Mapping[str, object]  # what JSON can say

NOTES = {
    "prompt_truncated": "The model reads the beginning of this expression only: the rest does not fit its text window.",
}


def to_send(compared: Compared, image: Image.Image, seen: Sequence[Seen], warning: str | None) -> Sent:
    """Picture, heat maps and words of one or two expressions, as the viewer's script takes them (static/demo.js).

    `warning`: what a reader must know of this model on this picture.
    """
    size = compute.shown_size(image)
    return {
        "picture": _picture(image, size),
        "size": size,
        "full": (image.height, image.width),
        "warning": warning,
        "expressions": [_expression(compared, one, size) for one in seen],
        **_choices(compared),
        "levels": LEVELS,
        "heat": _colours(maps.HEAT, LEVELS + 1),
        "difference": _colours(maps.DIFFERENCE, 2 * LEVELS + 1),
        "line": maps.as_hex(maps.MASK),
        "dim": maps.DIM,
    }


def _choices(compared: Compared) -> Sent:
    """What can be chosen: methods of edits, readings, alphas; and for each variant which of them it is."""
    found = compared.variants
    methods = list(dict.fromkeys(v.method for v in found))
    words = [in_words(next(v for v in found if v.method == method)) for method in methods]
    shown = words if len(set(words)) == len(words) else methods
    several = [len({v.alpha for v in found if v.method == method}) > 1 for method in methods]
    readings = list(dict.fromkeys(map(compared.reading, found)))
    alphas = sorted({v.alpha for v in found if v.alpha is not None})
    return {
        "methods": [
            {"name": n, "slides": s, "alpha": _only_alpha(found, m)} for n, s, m in zip(shown, several, methods)
        ],
        "readings": readings,
        "alphas": alphas,
        "variants": [(methods.index(v.method), readings.index(compared.reading(v)), v.alpha) for v in found],
    }


def _only_alpha(found: Sequence[Variant], method: str) -> float | None:
    alphas = {v.alpha for v in found if v.method == method}
    return alphas.pop() if len(alphas) == 1 else None


def _expression(compared: Compared, seen: Seen, size: tuple[int, int]) -> Sent:
    """One expression: its text, the spans of target and chunk, what is to be said of it, and its M heat maps."""
    heat, place = compute.heat_maps(compared, seen, size)
    parse = seen.prompt.parse
    return {
        "text": parse.text,
        "target": parse.target,
        "chunk": parse.chunk,
        "notes": notes(seen),
        "maps": compute.pack(compute.to_levels(heat)),
        "map_of_variant": place,
    }


def notes(seen: Seen) -> list[str]:
    """What a reader must know of how an expression was read, in sentences."""
    prompt = seen.prompt
    found = [NOTES.get(rule, f"How it was read: {rule.replace('_', ' ')}.") for rule in prompt.fallbacks]
    if not prompt.bind and len(set(seen.index)) == 1:  # edits without a gate act all the same
        why = "Nothing modifies" if not prompt.parse.modified else "Nothing can be bound to"
        found.append(
            f"{why} “{clean(prompt.parse.target_text)}”: the edits change nothing, all maps are the baseline’s."
        )
    return found


def in_words(variant: Variant) -> str:
    """A variant's edits and latent steps as the page calls them: "baseline", "NCR with prompt + UEA + syngen x3"."""
    kinds = {NounChunk: "NCR", Averaging: "UEA"}
    steps = [variant.latents] if variant.latents else []
    if any(type(edit) not in kinds for edit in variant.edits):
        return " + ".join([variant.method, *steps])
    kept = [isinstance(edit, NounChunk) and edit.prefix == "template" for edit in variant.edits]
    words = [kinds[type(e)] + " with prompt" * k for e, k in zip(variant.edits, kept, strict=True)]
    return " + ".join([*(words or [BASELINE]), *steps])


def _picture(image: Image.Image, size: tuple[int, int]) -> str:
    """A picture at (height, width) as an address that holds it."""
    shown = image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.LANCZOS)
    shown.save(file := BytesIO(), "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _colours(colour_map: Callable[..., np.ndarray], count: int) -> list[int]:
    """The colours at even steps from one end to the other, as red, green, blue one after the other."""
    return colour_map(np.linspace(0, 1, count), bytes=True)[:, :3].flatten().tolist()
