"""The bundled benchmark: drawn scenes and expressions, written in REFER's layout."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attrbind_exp.data.masks import encode_mask
from attrbind_exp.pretrain.captions import Reference, references
from attrbind_exp.pretrain.scenes import (
    COLOURS,
    RARE,
    SHAPES,
    SPLITS,
    USUAL,
    Object,
    Scene,
    draw,
    object_mask,
    outlines,
    place,
    scene_rng,
)

PIXELS = 128
SCENES = {"val": 100, "test": 320}
RARE_PAIRS = tuple((shape, colour) for shape in SHAPES for colour in RARE[shape])
# Of every twenty scenes: five with a rare pair beside the same shape in its usual colour, six with two of one shape in
# other colours, nine with every shape once.
KINDS = ("rivals",) * 5 + ("kin",) * 6 + ("apart",) * 9


def benchmark_scene(split: str, index: int) -> Scene:
    """A scene of two to four objects; the first is the one to find, the second its rival of the same shape where the
    scene is of the kind "rivals" or "kin". Every rare pair has as many scenes with its usual rival as any other. In a
    third of the scenes another shape has the first one's colour."""
    rng = scene_rng(split, index)
    turn, kind = index // len(KINDS), KINDS[index % len(KINDS)]
    if kind == "rivals":
        shape, colour = RARE_PAIRS[(5 * turn + index % len(KINDS)) % len(RARE_PAIRS)]
        pairs = [(shape, colour), (shape, USUAL[shape])]
    else:
        shape = str(rng.choice(SHAPES))
        colour = str(rng.choice(list(COLOURS)))
        pairs = [(shape, colour)]
        if kind == "kin":
            pairs.append((shape, str(rng.choice([c for c in COLOURS if not rivals(shape, colour, c)]))))
    if rng.random() < 0.35:
        pairs.append((str(rng.choice([s for s in SHAPES if s != shape])), colour))
    count = rng.integers(max(2, len(pairs)), 5)
    while len(pairs) < count:
        free = [s for s in SHAPES if s not in {p[0] for p in pairs}]
        pairs.append((str(rng.choice(free)), str(rng.choice(list(COLOURS)))))
    return place(rng, pairs, (SPLITS[split], index, 1))


def rivals(shape: str, a: str, b: str) -> bool:
    """Are the colours the same, or one the shape's usual, the other a rare one?"""
    return a == b or any(x == USUAL[shape] and y in RARE[shape] for x, y in ((a, b), (b, a)))


def chosen_references(rng: np.random.Generator, scene: Scene) -> list[list[Reference]]:
    """The expressions of each object.

    Of two objects of one shape both get their colour ("the white star", "the black star": the modifier swapped on one
    picture and noise) and both a relation to each other with their own noun second; the first also what else fits it.
    Without a rival, the first object gets all that fits it but one, another object one expression.
    """
    every = [references(rng, scene, obj) for obj in scene.objects]
    kin = len(scene.objects) > 1 and scene.objects[0].shape == scene.objects[1].shape
    if kin:
        second = [r for r in every[1] if r.kind == "colour" or r.order == "target_second"]
        return [every[0], second, *([] for _ in every[2:])]
    kept = sorted(rng.permutation(len(every[0]))[: max(3, len(every[0]) - 1)])
    other = [[every[1][rng.integers(len(every[1]))]]] if len(every) > 1 else []
    return [[every[0][i] for i in kept], *other, *([] for _ in every[2:])]


def slices_of(scene: Scene, target: Object, reference: Reference) -> dict[str, str]:
    """The labels that results are reported by."""
    others = [o for o in scene.objects if o is not target]
    kin = [o for o in others if o.shape == target.shape]
    rivalry = "none"
    if target.pair == "rare" and any(o.pair == "usual" for o in kin):
        rivalry = "rare_beside_usual"
    elif target.pair == "usual" and any(o.pair == "rare" for o in kin):
        rivalry = "usual_beside_rare"
    return {
        "same_shape": "distractor" if kin else "alone",
        "same_colour": "distractor" if any(o.colour == target.colour for o in others) else "alone",
        "pair": target.pair,
        "rivalry": rivalry,
        "kind": reference.kind,
        "order": reference.order,
    }


def segmentation_of(obj: Object) -> Any:
    """A polygon, as COCO has it; run lengths for the ring, which has a hole."""
    outer, hole = outlines(obj)
    if hole is not None:
        return encode_mask(object_mask(obj, PIXELS) >= 0.5)
    return [np.round(outer * PIXELS, 2).flatten().tolist()]


def build_records() -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Scene]]:
    """instances.json, the refs, and every image's scene by file name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    scenes: dict[str, Scene] = {}
    sentence_id = 0
    for split, count in SCENES.items():
        for index in range(count):
            scene = benchmark_scene(split, index)
            image_id = len(images) + 1
            file_name = f"{split}_{index:04d}.jpg"
            scenes[file_name] = scene
            images.append({"id": image_id, "file_name": file_name, "height": PIXELS, "width": PIXELS})
            rng = scene_rng(split, index, purpose=2)
            for obj, found in zip(scene.objects, chosen_references(rng, scene), strict=True):
                annotation_id = len(annotations) + 1
                annotations.append(_annotation(annotation_id, image_id, obj))
                sentences = []
                for reference in found:
                    labels = slices_of(scene, obj, reference)
                    words = {"raw": reference.text, "sent": reference.text, "tokens": reference.text.split()}
                    sentences.append({**words, "sent_id": sentence_id, "slices": labels})
                    sentence_id += 1
                if sentences:
                    refs.append(_ref(len(refs) + 1, split, annotations[-1], file_name, sentences))
    categories = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]
    return {"images": images, "annotations": annotations, "categories": categories}, refs, scenes


def parse_rows() -> list[tuple[str, str, str]]:
    """Expression, target and chunk (as start:end characters) of all expressions whose target is the second noun: "next
    to a blue square, the red circle". What is studied is binding, not spaCy."""
    rows = {}
    for split, index in ((split, i) for split, count in SCENES.items() for i in range(count)):
        scene = benchmark_scene(split, index)
        found = chosen_references(scene_rng(split, index, purpose=2), scene)
        for obj, of_object in zip(scene.objects, found, strict=True):
            for r in of_object:
                if r.order == "target_second":
                    target = f"{r.chunk[1] - len(obj.shape)}:{r.chunk[1]}"
                    rows[r.text] = (r.text, target, f"{r.chunk[0]}:{r.chunk[1]}")
    return list(rows.values())


def _annotation(annotation_id: int, image_id: int, obj: Object) -> dict[str, Any]:
    corners = outlines(obj)[0] * PIXELS
    low, high = corners.min(0), corners.max(0)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": SHAPES.index(obj.shape) + 1,
        "colour": obj.colour,
        "segmentation": segmentation_of(obj),
        "area": round(float(object_mask(obj, PIXELS).sum()), 1),
        "bbox": [round(float(v), 1) for v in (*low, *(high - low))],
        "iscrowd": 0,
    }


def _ref(ref_id: int, split: str, annotation: dict[str, Any], file_name: str, sentences: list) -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "ann_id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "file_name": file_name,
        "split": split,
        "sent_ids": [s["sent_id"] for s in sentences],
        "sentences": sentences,
    }


def write_benchmark(out: Path) -> None:
    """Write `out`/shapes in REFER's layout: instances.json, refs(made).json, images/; and parses.csv with the
    target and chunk of expressions that spaCy often misreads."""
    folder = out / "shapes"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    instances, refs, scenes = build_records()
    (folder / "instances.json").write_text(json.dumps(instances, separators=(",", ":")) + "\n")
    (folder / "refs(made).json").write_text(json.dumps(refs, separators=(",", ":")) + "\n")
    with open(folder / "parses.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("expression", "target", "chunk"), *parse_rows()])
    for file_name, scene in scenes.items():
        Image.fromarray(draw(scene, PIXELS)).save(folder / "images" / file_name, quality=92, subsampling=0)
