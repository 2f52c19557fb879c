"""Damaged tables and JSON files: each good one, how it is damaged, and what reads it."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

from damage import SIZE, Attempt, Changed, damage_bytes, damage_json
from omegaconf import OmegaConf
from PIL import Image

from attrbind_exp import config
from attrbind_exp.backbones.reading import read_reading
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.folder import load_folder
from attrbind_exp.data.refer import load_refer
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.paths import CONF
from attrbind_exp.runs.index import read_sweep
from attrbind_exp.runs.rows import ExpressionRow, encode_rows, read_images
from attrbind_exp.runs.store import read_failures


def good_refs() -> tuple[dict, list]:
    box = [[10, 10, 30, 10, 30, 30, 10, 30]]
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    objects = [
        {"id": a, "image_id": 1 + a % 2, "category_id": 1, "segmentation": box, "area": 400.0, "iscrowd": 0}
        for a in range(4)
    ]
    refs = [
        {"ref_id": a, "ann_id": a, "image_id": 1 + a % 2, "category_id": 1, "split": "test",
         "sentences": [{"sent_id": 2 * a + k, "sent": f"the star {k}", "tokens": ["the", "star"]} for k in (0, 1)]}
        for a in range(4)
    ]  # fmt: skip
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "star"}]}, refs


def tables(folder: Path) -> Attempt:
    instances, refs = good_refs()
    data = folder / "tiny"
    (data / "images").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        Image.new("RGB", SIZE[::-1]).save(data / "images" / name)
    files: dict[Path, object] = {data / "instances.json": instances, data / "refs(made).json": refs}
    rows = [{"image": f"{1 + k % 2}.png", "expression": f"the star {k}", "id": f"r{k}", "kind": "a"} for k in range(5)]
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    parses = '{"expression": "the red star", "target": "star", "chunk": "the red star"}\n' * 1
    row = ExpressionRow(
        sample_id="1:1", image_id="1", text_processor="baseline", alpha=None, seed=0, expression="a", prompt="a",
        target="a", chunk="a", bound=True, fallbacks=(), slices={}, iou_at={"0.50": 0.5}, intersection=[1] * 101,
        union=[2] * 101,
    )  # fmt: skip
    labels = {"image_similarity": {"1.png": ["star"]}, "text_similarity": {"2.png": ["star"]}}
    reading = {"timesteps": [100], "weights": {"8": 0.3, "4": 0.7}}
    sweep = {"runs": [{"name": "a", "folder": "b", "command": "c"}], "merged": [], "command": "d"}
    cfg = OmegaConf.to_container(composed(), resolve=True)

    def refer() -> str:
        return count_refs(load_refer(str(folder), "tiny", "made", "test"), data / "refs(made).json")

    def text(name: str, good: str, load: Callable[[], str], rng: random.Random) -> str:
        (folder / name).write_bytes(damage_bytes(good.encode(), rng))
        return load()

    def values(name: str, good: object, load: Callable[[], str], rng: random.Random) -> str:
        (folder / name).write_bytes(damage_json(good, rng))
        return load()

    def table(name: str) -> Callable[[], str]:
        return lambda: count_rows(load_folder(str(data / "images"), str(folder / name)), folder / name)

    def run_config() -> str:
        with config.naming_config(folder):
            config.read_settings(config.read_config(folder))
        return "right"

    def coco() -> str:
        found = load_coco(str(data), annotations=str(data / "instances.json"), images=str(data / "images"))
        return "counted" if found.failures else "right"

    def label_file() -> str:
        files = {"annotations": str(data / "instances.json"), "images": str(data / "images")}
        found = load_coco(str(data), labels=str(folder / "labels.json"), **files)
        return "counted" if found.failures else "right"

    def plain(load: Callable[[], object]) -> Callable[[], str]:
        def right() -> str:
            load()
            return "right"

        return right

    failures = '{"sample_id": "a", "reason": "b", "message": "c"}\n' * 3
    failure_file = "failures.jsonl"
    ways: list[tuple[Callable[..., str], str, object, Callable[[], str]]] = [
        (values, "tiny/instances.json", instances, refer),
        (values, "tiny/instances.json", instances, coco),
        (values, "tiny/refs(made).json", refs, refer),
        (text, "rows.csv", written.getvalue(), table("rows.csv")),
        (text, "rows.jsonl", lines, table("rows.jsonl")),
        (text, "parses.jsonl", parses, plain(lambda: read_overrides(folder / "parses.jsonl"))),
        (values, "labels.json", labels, label_file),
        (values, "reading.json", reading, plain(lambda: read_reading(str(folder)))),
        (values, "sweep.json", sweep, plain(lambda: read_sweep(folder))),
        (text, "expressions.jsonl", encode_rows([row] * 3).decode(), plain(lambda: list(read_images(folder)))),
        (text, failure_file, failures, plain(lambda: read_failures(folder))),
        (text, "config.yaml", OmegaConf.to_yaml(cfg), run_config),
        (values, "config.yaml", cfg, run_config),  # YAML holds JSON
    ]

    def attempt(rng: random.Random) -> str:
        for file, good in files.items():
            file.write_text(json.dumps(good))
        damage, name, good, load = rng.choice(ways)
        return damage(name, good, load, rng)

    return attempt


def composed() -> OmegaConf:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run")
    config.fill_reading(cfg)
    return cfg


def count_refs(dataset, file: Path) -> str:
    """Every sentence of the split is a sample or a failure."""
    refs = [r for r in json.loads(file.read_text()) if r["split"] == "test"]
    sentences = sum(len(r["sentences"]) if isinstance(r["sentences"], list) else 1 for r in refs)
    return count(dataset, sentences)


def count_rows(dataset, file: Path) -> str:
    """Every row is a sample or a failure."""
    text = file.read_bytes().decode("utf-8-sig")
    if file.suffix == ".csv":
        rows = len(list(csv.DictReader(io.StringIO(text, newline="\n"), skipinitialspace=True)))
    else:
        rows = sum(bool(line.strip()) for line in text.split("\n" if "\n" in text else "\r"))
    return count(dataset, rows)


def count(dataset, expected: int) -> str:
    found = len(dataset.samples) + len(dataset.failures)
    if found < expected:
        raise Changed(f"{found} samples and failures of {expected}")
    return "counted" if dataset.failures else "right"
