"""LoRAs on top of a model: low-rank changes of its weights, added to them once, so that a pass costs what it cost.

A file holds two factors for each layer that it changes, under the names of whoever trained it: diffusers' scripts of
today and of old, or kohya's, as the web has them. diffusers' own loader leaves out the text encoder's attention of the
latter (0.42), so layers are looked up here, and a tensor that belongs to none refuses the file.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attrbind_exp.backbones.weights import first_line, list_names
from attrbind_exp.backbones.weights_digest import read_loras
from attrbind_exp.types import UserError

Scale: TypeAlias = float | Sequence[float]

PARTS = ("unet", "text_encoder")
FACTOR = re.compile(r"(.+?)[._](?:lora_linear_layer|lora)[._](A|B|down|up)\.weight")
ALPHA = ".alpha"
# From the names of layers in files, "_" for ".", to those of today.
NAMES = (
    (re.compile("^lora_unet_"), "unet_"),
    (re.compile("^lora_te1?_"), "text_encoder_"),
    (re.compile("^text_encoder_text_model_"), "text_encoder_"),
    (re.compile("_processor_"), "_"),
    (re.compile("_self_attn_to_(q|k|v|out)$"), r"_self_attn_\1_proj"),
    (re.compile("_to_out$"), "_to_out_0"),
)
SETTINGS = "lora_adapter_metadata"  # in a header: how diffusers' scripts of today trained
UNREAD = ("alpha_pattern", "use_rslora", "use_dora", "lora_bias")  # settings that would need another sum
MEND = "give a LoRA's safetensors for this kind of model as model.lora=FILE, or model.lora=null"


class Change(NamedTuple):
    """What one layer's weight is changed by: `down` (rank, in ..) and `up` (out, rank ..), and their product's
    `factor`, alpha / rank."""

    down: Tensor
    up: Tensor
    factor: float

    def product(self, like: Tensor) -> Tensor:
        """factor * up @ down in the shape of a weight, float32 on its device; a convolution's factors are convolutions.

        Raises RuntimeError where they do not fit it.
        """
        up, down = (values.to(like.device, torch.float32).flatten(1) for values in (self.up, self.down))
        return self.factor * (up @ down).view(like.shape)


def fuse_loras(pipeline: StableDiffusionPipeline, lora: str | Sequence[str] | None, scale: Scale) -> None:
    """Add each LoRA to the weights of UNet and text encoder: W becomes W + scale * alpha / rank * B A.

    `lora`: one file or several, which add up; `scale`: one number for all of them, or one for each. Raises UserError
    for a file that is not there, is no LoRA, or does not fit this model to its last tensor.
    """
    for path, factor in zip(*_paired(lora, scale), strict=True):
        weights = _weights(pipeline)
        changes = read_lora(path)
        absent = [name for name in changes if name not in weights]
        if absent:
            seen = f"{len(absent)} of its {len(changes)} layers are not in it ({list_names(absent)})"
            raise UserError(f"model.lora='{path}' does not fit this model: {seen}; {MEND}")
        for name, change in changes.items():
            if factor:  # by 0 nothing is added, not even to the sign of a zero
                _add(weights[name], change, factor, f"model.lora='{path}', layer {name}")


def _paired(lora: str | Sequence[str] | None, scale: Scale) -> tuple[list[str], list[float]]:
    """The files, and a scale for each."""
    files = read_loras(lora)
    scales = [scale] * len(files) if isinstance(scale, int | float) else list(scale)
    if not all(isinstance(number, int | float) for number in scales):
        raise UserError(f"model.lora_scale={scale}; give a number, or one for each file as [1.0,0.5]")
    if len(scales) != len(files):
        raise UserError(
            f"model.lora_scale={scales} has {len(scales)} numbers for {len(files)} files of model.lora; give one for "
            "all of them, or one for each"
        )
    return files, scales


def _weights(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    """The weights that a LoRA can change by their layers' names, "_" for ".": "unet_conv_in"."""
    return {
        f"{part}_{name.removesuffix('.weight').replace('.', '_')}": values
        for part in PARTS
        for name, values in getattr(pipeline, part).named_parameters()
        if name.endswith(".weight") and values.ndim > 1
    }


@torch.no_grad()
def _add(weight: Tensor, change: Change, scale: float, what: str) -> None:
    """Add a change to a weight, in float32 whatever the weight's type."""
    try:
        fused = (weight.float() + scale * change.product(weight)).to(weight.dtype)
    except RuntimeError as error:
        shapes = f"{list(change.up.shape)} @ {list(change.down.shape)} for {list(weight.shape)}"
        raise UserError(f"{what} does not fit this model: {shapes}; {MEND}") from error
    if not fused.isfinite().all():
        raise UserError(f"{what} makes numbers that are not finite; lower model.lora_scale, or take model.dtype=fp32")
    weight.copy_(fused)


def read_lora(path: str) -> dict[str, Change]:
    """The changes in a LoRA's file by the names of layers, "_" for ".". Raises UserError for a file that is none."""
    tensors, settings = _read(path)
    found: dict[str, dict[str, Tensor]] = {}
    odd = []
    for name, values in tensors.items():
        factor = FACTOR.fullmatch(name)
        if not factor and not name.endswith(ALPHA):
            odd.append(name)
            continue
        role = {"A": "down", "B": "up"}.get(factor[2], factor[2]) if factor else "alpha"
        found.setdefault(_layer(factor[1] if factor else name.removesuffix(ALPHA)), {})[role] = values
    odd += [name for name, roles in found.items() if not _is_whole(roles)]
    odd += [f"{key}={value}" for key, value in settings.items() if value and key.rpartition(".")[2] in UNREAD]
    if odd or not found:
        raise UserError(f"model.lora='{path}' is no LoRA that is read here: found {list_names(odd) or 'none'}; {MEND}")
    return {name: _change(name, roles, settings) for name, roles in found.items()}


def _is_whole(roles: dict[str, Tensor]) -> bool:
    """Whether there are both factors and, where there is one, a single alpha."""
    factors = [roles[role] for role in ("down", "up") if role in roles]
    whole = len(factors) == 2 and all(values.ndim > 1 and values.numel() for values in factors)
    return whole and ("alpha" not in roles or roles["alpha"].numel() == 1)


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of a file, and the settings of the training, where its header has them."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"model.lora='{path}' does not exist; {MEND}")
    if file.suffix != ".safetensors":
        raise UserError(f"model.lora='{path}' is no safetensors, and pickles are not read; {MEND}")
    try:
        with safe_open(file, "pt") as content:
            settings = json.loads((content.metadata() or {}).get(SETTINGS, "{}"))
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return tensors, settings if isinstance(settings, dict) else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model.lora='{path}' cannot be read ({first_line(error)}); get the file again") from error


def _layer(name: str) -> str:
    """What a layer of a file is called here."""
    name = name.replace(".", "_")
    for before, after in NAMES:
        name = before.sub(after, name)
    return name


def _change(name: str, roles: dict[str, Tensor], settings: dict[str, object]) -> Change:
    """A layer's change; alpha is the rank where nobody says otherwise."""
    rank = roles["down"].shape[0]
    part = next((part for part in PARTS if name.startswith(f"{part}_")), "")
    alpha = roles["alpha"].item() if "alpha" in roles else settings.get(f"{part}.lora_alpha")
    return Change(roles["down"], roles["up"], alpha / rank if isinstance(alpha, int | float) else 1.0)
