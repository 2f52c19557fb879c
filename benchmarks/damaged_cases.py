"""The cases of damaged.py: good files, ways to damage them, and whether what loads is right."""

import copy
import csv
import io
import json
import pickle
import random
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from attrbind_exp import config
from attrbind_exp.backbones.loading import load_part
from attrbind_exp.backbones.reading import read_reading
from attrbind_exp.backbones.stable_diffusion import weights_digest
from attrbind_exp.backbones.weights import FILES, find_model
from attrbind_exp.backbones.window import load_tokenizer
from attrbind_exp.data.coco import load_coco
from attrbind_exp.data.folder import load_folder
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.data.refer import load_refer
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.paths import CONF, PACKAGE
from attrbind_exp.runs.index import read_sweep
from attrbind_exp.runs.rows import ExpressionRow, encode_rows, read_images
from attrbind_exp.runs.store import read_failures
from attrbind_exp.types import SampleError, UserError

Attempt = Callable[[random.Random], str]  # damages something and loads it: "counted" or "right"; or raises
SIZE = (40, 60)
BUNDLED = PACKAGE / "assets" / "bundled"
DEEP = "[" * 100_000 + "]" * 100_000
ODD = (None, True, -1, 0, 7, 1e308, 2**70, "", "x", "\ud800", "\x1b[31m", [], {}, [[]], {"x": 1}, [None])


class Changed(Exception):
    """What loaded is not what the file says."""


def outcome(attempt: Attempt, kind: str, seed: int, number: int) -> tuple[str, str]:
    """What became of one case, and what was seen of a bad one."""
    try:
        return attempt(random.Random(f"{seed}/{kind}/{number}")), ""
    except UserError as error:
        said = str(error)
        if len(said) > 3000 or "\n" in said:
            return "traceback", f"not one line: {said[:200]!r}"
        return "refused", ""
    except SampleError:
        return "counted", ""
    except Changed as error:
        return "changed without a word", str(error)[:300]
    except BaseException as error:
        return (
            "traceback",
            f"{type(error).__name__} {str(error)[:120]!r} {traceback.format_tb(error.__traceback__)[-1]}",
        )


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


# Masks


def masks(folder: Path) -> Attempt:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = abs(np.hypot(rows - 20, columns - 30) - 12) < 5
    edges = np.flatnonzero(np.diff(ring.T.ravel())) + 1
    runs = np.diff([0, *edges, ring.size]).tolist()
    polygon = [float(n) for turn in np.arange(0, 6.28, 0.1) for n in (30 + 9 * np.cos(turn), 20 + 9 * np.sin(turn))]
    text = encode_mask(ring)["counts"]
    forms = [{"size": list(SIZE), "counts": text}, {"size": list(SIZE), "counts": runs}, [polygon, polygon[:40]]]
    Image.fromarray(ring).save(picture := folder / "mask.png")
    png = picture.read_bytes()

    def attempt(rng: random.Random) -> str:
        match rng.randrange(4):
            case 0:
                damaged: object = {"size": list(SIZE), "counts": damage_bytes(text.encode(), rng).decode("latin1")}
            case 1:
                damaged = damage_values(rng.choice(forms), rng)
            case 2:
                picture.write_bytes(damage_bytes(png, rng))
                damaged = {"png": str(picture)}
            case _:
                try:
                    damaged = json.loads(damage_bytes(json.dumps(rng.choice(forms)).encode(), rng))
                except ValueError:
                    return "refused"  # by whoever reads the file
        first, second = decode_mask(damaged, SIZE), decode_mask(damaged, SIZE)
        if first.shape != SIZE or first.dtype != bool or not first.any() or not np.array_equal(first, second):
            raise Changed("no mask, or another one at each look")
        return "right"

    return attempt


# Tables and JSON


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


# Pickles


class _Reference(pickle._Unpickler):
    """Python's own machine, written in Python; it finds no class."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(name)


def pickles(folder: Path) -> Attempt:
    _, refs = good_refs()
    file = folder / "refs(made).p"

    def attempt(rng: random.Random) -> str:
        found = refs if rng.random() < 0.7 else damage_values(refs, rng)
        content = damage_bytes(pickle.dumps(found, rng.randrange(6)), rng)
        file.write_bytes(content)
        loaded = read_plain_pickle(file)
        if repr(loaded) != repr(_Reference(io.BytesIO(content), encoding="utf-8").load()):
            raise Changed(repr(loaded))
        return "right"

    return attempt


# Checkpoints


def checkpoints(folder: Path) -> Attempt:
    import torch

    cpu, texts = torch.device("cpu"), ["A photograph of the white star next to a blue square!", "", "café 42"]
    digests = {part: weights_digest(load_part(BUNDLED, part, str(BUNDLED), cpu, torch.float32)) for part in FILES}
    ids = load_tokenizer(str(BUNDLED))(texts).input_ids
    names = [f.relative_to(BUNDLED) for f in sorted(BUNDLED.rglob("*")) if f.is_file() and f.suffix != ".png"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)

    def attempt(rng: random.Random) -> str:
        name = rng.choice([n for n in names if n.suffix == ".safetensors"] * 4 + names)
        for other in names:
            (folder / other).unlink(missing_ok=True)
            if other != name:
                (folder / other).symlink_to(BUNDLED / other)
        content = (BUNDLED / name).read_bytes()
        weights = name.suffix == ".safetensors"
        (folder / name).write_bytes(damage_weights(content, rng) if weights else damage_json(json.loads(content), rng))
        find_model(str(folder))
        read_reading(str(folder))
        if name.parts[0] == "tokenizer" and load_tokenizer(str(folder))(texts).input_ids != ids:
            raise Changed(f"{name}: other tokens")
        for part in FILES if name.parts[0] not in FILES else [name.parts[0]]:
            if weights_digest(load_part(folder, part, str(folder), cpu, torch.float32)) != digests[part]:
                raise Changed(f"{name}: other weights")
        return "right"

    return attempt


def damage_weights(content: bytes, rng: random.Random) -> bytes:
    """Safetensors whose header was damaged, or whose numbers were cut or doubled. Numbers that change and stay finite
    are no damage that could be seen."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = content[8 : 8 + length], content[8 + length :]
    match rng.randrange(6):
        case 0:
            return (
                rng.choice([0, 7, length - 1, length + 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little") + content[8:]
            )
        case 1:
            return damage_bytes(content[:8], rng) + content[8:]
        case 2:
            at = rng.randrange(len(numbers))
            numbers = numbers[:at] if rng.random() < 0.5 else numbers[:at] + numbers[at // 2 :]
        case 3:
            header = damage_bytes(header, rng)
        case 4:  # a name twice, or nested without end
            entry = b'"x":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},'
            inner = rng.choice([entry, entry * 2, b'"x":' + DEEP.encode() + b",", b'"__metadata__":{"a":{}},'])
            header = b"{" + inner + header[1:]
        case _:
            described = json.loads(header)
            tensor = rng.choice([name for name in described if name != "__metadata__"])
            key, odd = rng.choice([("dtype", "F99"), ("dtype", "F32"), ("dtype", "I16"), ("shape", [1]), ("shape", [-1]),
                                   ("shape", [2**62, 4]), ("data_offsets", [0, 2]), ("data_offsets", [9, 3]),
                                   ("data_offsets", [0, 2**62]), ("data_offsets", None)])  # fmt: skip
            described[tensor][key] = odd
            header = json.dumps(described).encode()
    return len(header).to_bytes(8, "little") + header + numbers


KINDS: dict[str, Callable[[Path], Attempt]] = {
    "masks": masks,
    "tables": tables,
    "pickles": pickles,
    "checkpoints": checkpoints,
}
