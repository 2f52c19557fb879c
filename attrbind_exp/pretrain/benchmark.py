"""The bundled benchmark: drawn scenes and expressions, written in REFER's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attrbind_exp.data.masks import encode_mask
from attrbind_exp.pretrain.captions import references
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
SCENES = {"val": 80, "test": 180}
SENTENCES = 3  # a scene


def benchmark_scene(split: str, index: int) -> Scene:
    """A scene whose first object is the one to find: rare, usual and common pairs alike; three scenes in five hold a
    second object of its shape, three in ten one of its colour."""
    rng = scene_rng(split, index)
    shape = str(rng.choice(SHAPES))
    pools = {"rare": RARE[shape], "usual": (USUAL[shape],)}
    pools["common"] = tuple(c for c in COLOURS if c not in pools["rare"] + pools["usual"])
    colour = str(rng.choice(pools[str(rng.choice(["rare", "usual", "common"], p=[0.4, 0.2, 0.4]))]))
    pairs = [(shape, colour)]
    if rng.random() < 0.6:
        # A distractor of the same shape has its usual colour half of the time: what a biased model would pick.
        free = [c for c in COLOURS if c != colour]
        usual_first = USUAL[shape] in free and rng.random() < 0.5
        pairs.append((shape, USUAL[shape] if usual_first else str(rng.choice(free))))
    if rng.random() < 0.3:
        pairs.append((str(rng.choice([s for s in SHAPES if s != shape])), colour))
    count = rng.integers(2, 5)
    while len(pairs) < count:
        pair = (str(rng.choice([s for s in SHAPES if s != shape])), str(rng.choice(list(COLOURS))))
        if pair not in pairs:
            pairs.append(pair)
    return place(rng, pairs, (SPLITS[split], index, 1))


def slices_of(scene: Scene, target: Object, kind: str) -> dict[str, str]:
    """The labels that results are reported by."""
    others = [o for o in scene.objects if o is not target]
    return {
        "same_shape": "distractor" if any(o.shape == target.shape for o in others) else "alone",
        "same_colour": "distractor" if any(o.colour == target.colour for o in others) else "alone",
        "pair": target.pair,
        "kind": kind,
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
            left = SENTENCES
            for obj in scene.objects:
                annotation_id = len(annotations) + 1
                annotations.append(_annotation(annotation_id, image_id, obj))
                sentences = []
                for reference in references(rng, scene, obj)[: min(left, 2)]:
                    labels = slices_of(scene, obj, reference.kind)
                    words = {"raw": reference.text, "sent": reference.text, "tokens": reference.text.split()}
                    sentences.append({**words, "sent_id": sentence_id, "slices": labels})
                    sentence_id += 1
                left -= len(sentences)
                if sentences:
                    refs.append(_ref(len(refs) + 1, split, annotations[-1], file_name, sentences))
    categories = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]
    return {"images": images, "annotations": annotations, "categories": categories}, refs, scenes


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
    """Write `out`/shapes in REFER's layout: instances.json, refs(made).json, images/."""
    folder = out / "shapes"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    instances, refs, scenes = build_records()
    (folder / "instances.json").write_text(json.dumps(instances, separators=(",", ":")) + "\n")
    (folder / "refs(made).json").write_text(json.dumps(refs, separators=(",", ":")) + "\n")
    for file_name, scene in scenes.items():
        Image.fromarray(draw(scene, PIXELS)).save(folder / "images" / file_name, quality=92, subsampling=0)
