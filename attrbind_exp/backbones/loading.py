"""A Stable Diffusion's parts from their files, strictly: all of their tensors and no others, each in its shape.

diffusers and transformers fill what a file lacks with random numbers and go on. So here each part is built without
numbers, its tensors are compared with the file's, and the very tensors that were compared are put in their places.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from attrbind_exp.backbones import single_file
from attrbind_exp.backbones.headers import read_header
from attrbind_exp.backbones.weights import (
    FILES,
    first_line,
    index_of,
    list_names,
    mend,
    read_object,
    refusal,
    weight_files,
)
from attrbind_exp.backbones.window import load_tokenizer
from attrbind_exp.types import UserError

Part: TypeAlias = CLIPTextModel | UNet2DConditionModel | AutoencoderKL

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # 8 bits and integers would need scales

# What real checkpoints have otherwise than the classes of today; weights.py lists the files beside. Text encoders: the
# wrapper that transformers 4 wrote before all names, and the numbers 0 to 76 that it wrote as if they were weights,
# until 4.31. Autoencoders: the names of their attention until diffusers 0.17.
WRAPPER = "text_model."
POSITION_IDS = "embeddings.position_ids"
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_NAME = re.compile(r"(.*\.mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")

# What a spoilt config may ask for without end: Stable Diffusion has at most 23 layers in a row.
REPEATED = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block")
MOST_LAYERS = 100


def load_pipeline(place: Path, path: str, device: torch.device, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The model at `place`, as find_model gave it for model.path=`path`, with its weights as `dtype` on `device`.

    Raises UserError for files that cannot be read, or do not fit each other.
    """
    tokenizer = load_tokenizer(str(place))
    parts = {part: load_part(place, part, path, device, dtype) for part in FILES}
    text, width = parts["text_encoder"].config, parts["unet"].config.cross_attention_dim
    window, tokens = tokenizer.model_max_length, max(tokenizer.get_vocab().values()) + 1
    pairs = (  # what must go together
        (window == text.max_position_embeddings, "text windows", window, "tokenizer", text.max_position_embeddings),
        (tokens <= text.vocab_size, "tokens", tokens, "tokenizer", text.vocab_size),
        (width == text.hidden_size, "channels of an embedding", width, "unet", text.hidden_size),
    )
    unlike = [f"{what}: {one} in {part}/, {two} in text_encoder/" for same, what, one, part, two in pairs if not same]
    if unlike:
        raise UserError(f"model.path='{path}' holds parts of different models, {'; '.join(unlike)}; {mend(path)}")
    configs = configs_of(place, path)
    with _spoilt(configs / "scheduler", path):
        return StableDiffusionPipeline.from_pretrained(
            str(configs),
            local_files_only=True,
            tokenizer=tokenizer,
            **parts,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )


def configs_of(place: Path, path: str) -> Path:
    """The folder with a model's configurations: the model's own, or that of its kind for a single file."""
    return single_file.configs_of(place, path) if place.is_file() else place


def load_part(place: Path, part: str, path: str, device: torch.device, dtype: torch.dtype) -> Part:
    """The text encoder, UNet or VAE of a model, with its weights as `dtype` on `device`.

    Raises UserError for files that do not hold it whole, and for numbers that are not finite.
    """
    model, tensors, file = match_part(place, part, path, half=dtype == torch.float16)
    # Copied, else numbers would change under a run when somebody writes to the file.
    weights = {name: values.to(device, dtype, copy=True) for name, values in tensors.items()}
    extremes = torch.stack([torch.stack(values.aminmax()) for values in weights.values()])  # (T, 2); NaN if any is
    finite = extremes.isfinite().all(1).tolist()
    odd = [name for name, good in zip(weights, finite, strict=True) if not good]
    if odd:
        seen = f"{len(odd)} of {len(weights)} tensors have numbers that are not finite in {_type_name(dtype)}"
        wider = "choose model.dtype=bf16 or fp32, or " if dtype == torch.float16 else ""
        raise UserError(f"'{file}': {seen} ({list_names(odd)}); {wider}{mend(path)}")
    model.load_state_dict(weights, strict=True, assign=True)
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        if last == "position_ids":  # in no file of today, so still without numbers
            setattr(model.get_submodule(owner), last, torch.arange(buffer.shape[-1], device=device)[None])
    rest = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if rest:
        raise UserError(refusal(path, f"{part}/ with {list_names(rest)}"))
    return model.eval()


def match_part(
    place: Path, part: str, path: str, half: bool = False, headers: bool = False
) -> tuple[Part, dict[str, Tensor], Path]:
    """A part without numbers, the tensors of its files by the part's names, and the file that errors name.

    The tensors are views of the files, which nothing is read of yet, or with `headers` only what headers say of them.
    `half`: as weight_files takes it. Raises UserError unless all are there, no others, and each in its shape.
    """
    files, configs = weight_files(place, part, path, half), configs_of(place, path)
    tensors: dict[str, Tensor] = {}
    named = files[0] if len(files) == 1 else index_of(files, part)
    twice = []
    for file in files:
        with _spoilt(file, path):
            found = read_header(file) if headers else load_file(file)
            if place.is_file():
                found = single_file.part_of(found, part, configs)
        for name, values in found.items():
            ours = _name_today(part, name)
            twice += [name] if ours in tensors else []
            if ours is not None:
                tensors[ours] = values
    model = _build(configs / part, part, path)
    own = {_name_today(part, name) or name: (name, tuple(values.shape)) for name, values in model.state_dict().items()}
    faults = [f"{len(twice)} twice ({list_names(twice)})"] if twice else []
    faults += _find_faults({name: shape for name, (_, shape) in own.items()}, tensors)
    if faults:
        what = f"'{named}' does not fit {part}/config.json: of {len(own)} tensors {'; '.join(faults)}"
        raise UserError(f"{what}; {mend(path)}")
    return model, {name: tensors[today] for today, (name, _) in own.items()}, named


def _find_faults(expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]) -> list[str]:
    """Why the tensors `found` cannot take the places of those `expected`, shapes by name: a phrase for every kind of
    fault, with how many there are and the first names."""
    shared = [name for name in expected if name in found]
    missing = [name for name in expected if name not in found]
    unexpected = sorted(name for name in found if name not in expected)
    misshapen = [
        f"{name} {list(found[name].shape)}, not {list(expected[name])}"
        for name in shared
        if tuple(found[name].shape) != tuple(expected[name])
    ]
    odd = [f"{name} {_type_name(found[name].dtype)}" for name in shared if found[name].dtype not in NUMBERS]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen, "of an odd type": odd}
    return [f"{len(names)} {kind} ({list_names(names)})" for kind, names in kinds.items() if names]


def _name_today(part: str, name: str) -> str | None:
    """What a tensor of a part's file is called today, without transformers' wrapper; None for one that is not read."""
    if part == "text_encoder":
        name = name.removeprefix(WRAPPER)
        return None if name == POSITION_IDS else name
    old = OLD_NAME.fullmatch(name) if part == "vae" else None
    return f"{old[1]}.{OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _build(folder: Path, part: str, path: str) -> Part:
    """A part as its config.json says, without numbers (on torch's meta device)."""
    config = read_object(folder / "config.json")
    layers = max((n for key in REPEATED for n in _integers(config.get(key))), default=0)
    if layers > MOST_LAYERS:
        raise UserError(f"'{folder / 'config.json'}' asks for {layers} layers in a row; {mend(path)}")
    with _spoilt(folder / "config.json", path), torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
        return (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(dict(config))


def _integers(value: Any) -> Iterator[int]:
    """The integers in a number or in lists of numbers."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item)


@contextmanager
def _spoilt(file: Path, path: str) -> Iterator[None]:
    """Makes one line of whatever libraries stumble over in a file that somebody else wrote."""
    try:
        yield
    except Exception as error:  # TypeError, KeyError, ZeroDivisionError ..: each value of a config ends in another
        seen = f"'{file}': {type(error).__name__}, {first_line(error)}"
        raise UserError(f"the weights at model.path='{path}' cannot be read ({seen}); {mend(path)}") from error
