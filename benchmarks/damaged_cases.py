"""The cases of damaged.py: masks, pickles and checkpoints that are damaged, and whether what loads is right."""

import io
import json
import pickle
import random
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from damage import DEEP, SIZE, Attempt, Changed, damage_bytes, damage_json, damage_values
from damaged_tables import good_refs, tables
from PIL import Image

from attrbind_exp.backbones.loading import load_part
from attrbind_exp.backbones.reading import read_reading
from attrbind_exp.backbones.stable_diffusion import weights_digest
from attrbind_exp.backbones.weights import FILES, find_model
from attrbind_exp.backbones.window import load_tokenizer
from attrbind_exp.data.masks import decode_mask, encode_mask
from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.paths import PACKAGE
from attrbind_exp.types import SampleError, UserError

BUNDLED = PACKAGE / "assets" / "bundled"


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
