"""Where a model's files lie, whether it is a Stable Diffusion 1.x or 2.x, and how to fetch it.

A model is a folder in diffusers' layout, perhaps one of the hub's cache, or a single file. Only small JSON files are
read here, no weights.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrbind_exp.backbones.pickled import refuse_pickle, save_again
from attrbind_exp.hub import WITHDRAWN, fetch_command, find_file, is_hub_name, split_name
from attrbind_exp.types import UserError

CHOICES = (
    "model=bundled, sd14, sd15, sd21, sd21_base, or model.path= of a Stable Diffusion 1.x or 2.x in safetensors: a "
    "single file, or a folder or hub name in diffusers' layout (model_index.json, unet/, vae/, text_encoder/, "
    "tokenizer/, scheduler/)"
)
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
# Parts whose class does not matter. Schedulers of all classes carry the same noise schedule; the others are not loaded.
IGNORED = ("scheduler", "safety_checker", "feature_extractor", "image_encoder")
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
HALF = "fp16"  # in the names of a second set of weights, in half precision: model.fp16.safetensors
# What is fetched of a model, as patterns for the hub. Beside it and sets in half precision, in real checkpoints, lie
# files that are neither read nor looked at: pickled copies (*.bin, *.ckpt), the weights of training before averaging
# (*.non_ema.safetensors, unet_ema/), safety_checker/, whole checkpoints (v1-5-pruned.safetensors).
READ = (
    "*.json",
    "tokenizer/*",
    "text_encoder/model.safetensors",
    "text_encoder/model-*-of-*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-*-of-*.safetensors",
)


READ_HALF = ("*.json", "tokenizer/*", f"*/*.{HALF}.safetensors", f"*/*.{HALF}-*-of-*.safetensors")


def find_model(path: str) -> Path:
    """What model.path means: a folder, a hub name's folder in the local cache, or a single file. Nothing is fetched.

    Raises UserError when there is none, or when a folder does not hold a Stable Diffusion 1.x or 2.x with safetensors;
    what is in a single file is looked at when its parts are read.
    """
    place = find_place(path)
    if place.is_dir():
        for part in FILES:
            weight_files(place, part, path)
    return place


def find_place(path: str) -> Path:
    """As find_model, whether all weights are there or not."""
    local = Path(path).expanduser()
    if local.is_file():
        refuse_pickle(local)
        return local
    # Not by snapshot_download: to it, a cache with just the files of our fetch command is incomplete.
    index = find_file(path, "model_index.json")
    folder = local if local.is_dir() else index.parent if index else None
    if folder is None:
        raise UserError(f"{_not_there(path)}, or choose {CHOICES}")
    _check_parts(folder, path)
    _check_channels(folder, path)
    return folder


def _not_there(path: str) -> str:
    """That model.path means nothing here, and how to get what it may mean."""
    if not is_hub_name(path):
        example = fetch_command("stable-diffusion-v1-5/stable-diffusion-v1-5", READ)
        return f"model.path='{path}' does not exist; get weights as by '{example}'"
    mirror = WITHDRAWN.get(split_name(path)[0])
    if mirror:
        seen = f"was taken down by its owners and is not in the local Hugging Face cache; its mirror is {mirror}"
        return f"model.path='{path}' {seen}: set model.path={mirror} and {mend(mirror)}"
    return f"model.path='{path}' is neither a folder nor in the local Hugging Face cache; {mend(path)}"


def weight_files(place: Path, part: str, path: str, half: bool = False) -> list[Path]:
    """The safetensors that hold a part: one file, or several that an index names. Where a folder has two sets, one of
    them in half precision, `half` takes that one.

    Raises UserError where there are none, where one set is there in both forms, and for an index that names anything
    but safetensors beside it.
    """
    if place.is_file():
        return [place]
    for kind in (HALF, "") if half else ("", HALF):
        if files := _one_set(place / part, FILES[part], kind, path):
            return files
    found = f"{part}/ without {FILES[part]}: {listing(place / part)}"
    pickled = any((place / part).glob("*.bin"))
    how = f"pickles are not read; {save_again(place)}; or " if pickled else ""
    how += mend(path)
    if is_hub_name(path) and not Path(path).is_dir():
        how += f", or where it has half precision alone by '{fetch_command(path, READ_HALF)}'"
    raise UserError(f"model.path='{path}' lacks weights: found {found}; {how}, or choose {CHOICES}")


def _one_set(folder: Path, name: str, kind: str, path: str) -> list[Path]:
    """The files of a part's set, `kind` HALF or "": one file, or those that an index names. Empty: there is none."""
    single = folder / (name.replace(".safetensors", f".{kind}.safetensors") if kind else name)
    index = folder / (f"{name}.index.{kind}.json" if kind else f"{name}.index.json")
    if not index.is_file():
        return [single] if single.is_file() else []
    shards = _shards(index, path)
    if single.is_file():
        raise UserError(f"two sets of weights: '{single}' and those that '{index.name}' names; remove one of them")
    return shards


def index_of(files: Sequence[Path], part: str) -> Path:
    """The index that names `files`, the shards of a part."""
    kind = f".{HALF}" if f".{HALF}" in files[0].name else ""
    return files[0].with_name(f"{FILES[part]}.index{kind}.json")


def _shards(index: Path, path: str) -> list[Path]:
    """The files that an index names, each once."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"'{index}' has no weight_map of tensors to files; {mend(path)}")
    files = sorted(set(names.values()))
    odd = [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]
    if odd:
        raise UserError(f"'{index}' names {list_names(odd)}; only safetensors beside it are read; {mend(path)}")
    gone = [name for name in files if not (index.parent / name).is_file()]
    if gone:
        raise UserError(f"'{index}' names {list_names(gone)}, not there; {mend(path)}")
    return [index.parent / name for name in files]


def mend(path: str) -> str:
    """What to do to have the weights of model.path whole: a part of an error's line."""
    local = Path(path).expanduser()
    if local.is_file():
        return "get the file again"
    if is_hub_name(path) and not local.is_dir():
        return f"fetch it by '{fetch_command(path, READ)}'"
    return "save it again by diffusers' save_pretrained(DIR, safe_serialization=True)"


def _check_parts(folder: Path, path: str) -> None:
    """Raise UserError unless model_index.json names Stable Diffusion's parts, each of the right class."""
    if not (folder / "model_index.json").is_file():
        alone = folder / "config.json"
        kind = read_object(alone).get("_class_name") if alone.is_file() else None
        found = f"a {kind} alone" if kind else f"no model_index.json, only {listing(folder)}"
        raise UserError(refusal(path, found))
    index = read_object(folder / "model_index.json")
    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1]}
    odd = [f"{k} {v}" for k, v in parts.items() if k not in IGNORED and v not in CLASSES.get(k, ())]
    odd += [f"no {k}" for k in CLASSES if k not in parts]
    if odd:
        raise UserError(refusal(path, f"{index.get('_class_name', 'a model')} with {', '.join(odd)}"))


def _check_channels(folder: Path, path: str) -> None:
    """Raise UserError for a UNet that wants more than latents, a timestep and a text embedding."""
    unet = read_object(folder / "unet" / "config.json")
    channels, latent = unet.get("in_channels", 4), read_object(folder / "vae" / "config.json").get("latent_channels", 4)
    if channels != latent:
        found = f"a UNet of {channels} input channels for latents of {latent}, as inpainting and depth models have"
        raise UserError(refusal(path, found))
    side = unet.get("sample_size")
    if not isinstance(side, int) or side <= 0:
        file = folder / "unet" / "config.json"
        raise UserError(f"'{file}' has sample_size={side!r}, which is no number of cells; {mend(path)}")
    for key in ("addition_embed_type", "class_embed_type"):
        if unet.get(key):
            raise UserError(refusal(path, f"a UNet with {key} '{unet[key]}', which needs more than image and text"))


def refusal(path: str, found: str) -> str:
    """The line that refuses a model of another kind."""
    return f"model.path='{path}' is no Stable Diffusion 1.x or 2.x: found {_escape(found)}; choose {CHOICES}"


def list_names(names: Iterable[str], most: int = 5) -> str:
    """The first of some names for an error's line, whatever characters are in them."""
    shown = [_escape(name)[:120] for name in islice(names, most + 1)]
    return ", ".join(shown[:most]) + (" .." if len(shown) > most else "")


def first_line(error: Exception) -> str:
    """What an error says, in at most 160 letters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _escape(lines[0])[:160].rstrip(".")


def _escape(text: str) -> str:
    """A text without line breaks and control characters: what files hold may be anything."""
    return text if text.isprintable() else ascii(text)[1:-1]


def listing(folder: Path) -> str:
    """The first names in a folder, for an error's line."""
    names = sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []
    return list_names(names, 8) or "nothing"


def read_object(file: Path) -> Mapping[str, Any]:
    """The object in a JSON file. Raises UserError where it cannot be read or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' cannot be read ({first_line(error)}); fetch or save the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{file}' holds no JSON object; fetch or save the model again")
    return content
