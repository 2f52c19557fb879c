"""The bundled benchmark: drawn scenes and their expressions, written in REFER's layout."""

import csv
import json
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from attrbind_exp.data.annotations import Annotation, Category, ImageEntry, Ref, Sentence
from attrbind_exp.data.masks import RunLengths, encode_mask
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

PIXELS = 128  # sides of a picture
SCENES = {"val": 100, "test": 320}
RARE_PAIRS = tuple((shape, colour) for shape in SHAPES for colour in RARE[shape])
# What twenty scenes in a row are about. "rivals": a shape in a rare colour beside the same shape in its usual one.
# "same shape": two objects of one shape in other colours. "all different": every shape once.
KINDS = ("rivals",) * 5 + ("same shape",) * 6 + ("all different",) * 9


class ShapeCategory(Category):
    """A category as COCO has it."""

    supercategory: str


class ShapeAnnotation(Annotation):
    """An annotation with its colour, and the box that COCO has: [x, y, width, height] in pixels."""

    colour: str
    bbox: list[float]


class ShapeSentence(Sentence):
    """A sentence with the fields that REFER has besides."""

    raw: str
    tokens: list[str]


class ShapeRef(Ref):
    """A ref with the fields that REFER has besides."""

    file_name: str
    sent_ids: list[int]


class InstancesFile(TypedDict):
    """What instances.json holds."""

    images: list[ImageEntry]
    annotations: list[ShapeAnnotation]
    categories: list[ShapeCategory]


def benchmark_scene(split: str, index: int) -> Scene:
    """Scene number `index` of a split, of two to four objects.

    The first object is the one to find. In a scene of the kind "rivals" or "same shape" the second one has its shape.
    Every rare pair has about as many scenes as any other. In a third of all scenes another shape has the first object's
    colour.
    """
    rng = scene_rng(split, index)
    turn, kind = index // len(KINDS), KINDS[index % len(KINDS)]
    if kind == "rivals":
        shape, colour = RARE_PAIRS[(5 * turn + index % len(KINDS)) % len(RARE_PAIRS)]
        pairs = [(shape, colour), (shape, USUAL[shape])]
    else:
        shape = str(rng.choice(SHAPES))
        colour = str(rng.choice(list(COLOURS)))
        pairs = [(shape, colour)]
        if kind == "same shape":
            pairs.append((shape, str(rng.choice([c for c in COLOURS if not rivals(shape, colour, c)]))))
    if rng.random() < 0.35:
        pairs.append((str(rng.choice([s for s in SHAPES if s != shape])), colour))
    count = rng.integers(max(2, len(pairs)), 5)
    while len(pairs) < count:
        free = [s for s in SHAPES if s not in {p[0] for p in pairs}]
        pairs.append((str(rng.choice(free)), str(rng.choice(list(COLOURS)))))
    return place(rng, pairs, (SPLITS[split], index, 1))


def rivals(shape: str, a: str, b: str) -> bool:
    """Whether two colours of a shape are the same, or one of them is its usual and the other a rare one."""
    return a == b or any(x == USUAL[shape] and y in RARE[shape] for x, y in ((a, b), (b, a)))


def chosen_references(rng: np.random.Generator, scene: Scene) -> list[list[Reference]]:
    """The expressions of each object, in the order of the scene's objects.

    Where the first two objects have one shape, both are named by their colour ("the white star", "the black star"): a
    word is swapped on the same picture and noise. Both also get a relation to each other with their own noun second,
    and the first object gets whatever else fits it. Where the second object has another shape, the first one gets all
    that fits it but one, or three, and the second one gets a single expression.
    """
    every = [references(rng, scene, obj) for obj in scene.objects]
    if len(scene.objects) > 1 and scene.objects[0].shape == scene.objects[1].shape:
        second = [r for r in every[1] if r.kind == "colour" or r.order == "target_second"]
        return [every[0], second, *([] for _ in every[2:])]
    kept = sorted(rng.permutation(len(every[0]))[: max(3, len(every[0]) - 1)])
    other = [[every[1][rng.integers(len(every[1]))]]] if len(every) > 1 else []
    return [[every[0][i] for i in kept], *other, *([] for _ in every[2:])]


def slices_of(scene: Scene, target: Object, reference: Reference) -> dict[str, str]:
    """The slice labels of an expression, which results are reported by."""
    others = [o for o in scene.objects if o is not target]
    same_shape = [o for o in others if o.shape == target.shape]
    rivalry = "none"
    if target.pair == "rare" and any(o.pair == "usual" for o in same_shape):
        rivalry = "rare_beside_usual"
    elif target.pair == "usual" and any(o.pair == "rare" for o in same_shape):
        rivalry = "usual_beside_rare"
    return {
        "same_shape": "distractor" if same_shape else "alone",
        "same_colour": "distractor" if any(o.colour == target.colour for o in others) else "alone",
        "pair": target.pair,
        "rivalry": rivalry,
        "kind": reference.kind,
        "order": reference.order,
    }


def segmentation_of(obj: Object) -> list[list[float]] | RunLengths:
    """The object's mask in COCO's forms: a polygon, or run lengths for the ring, which has a hole."""
    outer, hole = outlines(obj)
    if hole is not None:
        return encode_mask(object_mask(obj, PIXELS) >= 0.5)
    return [np.round(outer * PIXELS, 2).flatten().tolist()]


def build_records() -> tuple[InstancesFile, list[ShapeRef], dict[str, Scene]]:
    """What instances.json holds, the refs, and every image's scene by file name."""
    images: list[ImageEntry] = []
    annotations: list[ShapeAnnotation] = []
    refs: list[ShapeRef] = []
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
                annotations.append(_annotation(len(annotations) + 1, image_id, obj))
                sentences: list[Sentence] = []
                for reference in found:
                    sentences.append(_sentence(sentence_id, reference, slices_of(scene, obj, reference)))
                    sentence_id += 1
                if sentences:
                    refs.append(_ref(len(refs) + 1, split, annotations[-1], file_name, sentences))
    categories: list[ShapeCategory] = [
        {"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, refs, scenes


def parse_rows() -> list[tuple[str, str, str]]:
    """Expression, target and chunk (as start:end characters) of all expressions whose target is the second noun, such
    as "next to a blue square, the red circle". spaCy misreads many of them, and what is studied is binding, not
    spaCy."""
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


def _sentence(sentence_id: int, reference: Reference, slices: dict[str, str]) -> ShapeSentence:
    """The sentence of an expression."""
    return {
        "raw": reference.text,
        "sent": reference.text,
        "tokens": reference.text.split(),
        "sent_id": sentence_id,
        "slices": slices,
    }


def _annotation(annotation_id: int, image_id: int, obj: Object) -> ShapeAnnotation:
    """The annotation of an object."""
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


def _ref(ref_id: int, split: str, annotation: ShapeAnnotation, file_name: str, sentences: list[Sentence]) -> ShapeRef:
    """The ref of an object and its sentences."""
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
    """Write `out`/shapes in REFER's layout: instances.json, refs(made).json and images/.

    parses.csv beside them holds target and chunk of the expressions that spaCy often misreads.
    """
    folder = out / "shapes"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    instances, refs, scenes = build_records()
    (folder / "instances.json").write_text(json.dumps(instances, separators=(",", ":")) + "\n")
    (folder / "refs(made).json").write_text(json.dumps(refs, separators=(",", ":")) + "\n")
    with open(folder / "parses.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("expression", "target", "chunk"), *parse_rows()])
    for file_name, scene in scenes.items():
        Image.fromarray(draw(scene, PIXELS)).save(folder / "images" / file_name, quality=92, subsampling=0)
