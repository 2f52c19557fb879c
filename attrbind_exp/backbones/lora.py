"""LoRAs on top of a model: low-rank changes of its weights, added to them once, so that a pass costs what it cost.

What a LoRA's file holds is read by diffusers and added by peft (pip install "attrbind_exp[lora]").
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attrbind_exp.backbones.weights import first_line, list_names
from attrbind_exp.backbones.weights_digest import read_loras
from attrbind_exp.types import UserError

Scale: TypeAlias = float | Sequence[float]

PARTS = ("unet", "text_encoder")
DOWN = ("lora_A.weight", "lora_down.weight", ".down.weight")  # the first of a pair's two factors
# What files of other kinds have in the names of their tensors: they would be left out, or read as something else.
OTHER_KINDS = ("dora_scale", "lokr_", "hada_", "oft_", "diff_b")
MEND = "give the file of a LoRA for this kind of model as model.lora=FILE.safetensors, or model.lora=null"


def fuse_loras(pipeline: StableDiffusionPipeline, lora: str | Sequence[str] | None, scale: Scale) -> None:
    """Add each LoRA to the weights of UNet and text encoder: W becomes W + scale * alpha / rank * B A.

    `lora`: one file or several, which add up; `scale`: one number for all of them, or one for each. Raises UserError
    for a file that is not there, is no LoRA, or does not fit this model to its last tensor.
    """
    for file, factor in zip(*_paired(lora, scale), strict=True):
        tensors = read_lora(file)
        if find_spec("peft") is None:
            raise UserError(f"model.lora='{file}' needs peft; install it by pip install 'attrbind_exp[lora]'")
        _fuse(pipeline, file, tensors, factor)


def _paired(lora: str | Sequence[str] | None, scale: Scale) -> tuple[list[str], list[float]]:
    """The files, and a scale for each."""
    files = read_loras(lora)
    scales = [float(scale)] * len(files) if isinstance(scale, int | float) else [float(s) for s in scale]
    if len(scales) != len(files):
        raise UserError(
            f"model.lora_scale={list(scales)} are {len(scales)} numbers for {len(files)} files of model.lora; give one "
            "for all of them, or one for each"
        )
    return files, scales


def read_lora(path: str) -> dict[str, Tensor]:
    """The tensors of a LoRA's file. Raises UserError for a file that is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"model.lora='{path}' does not exist; {MEND}")
    if file.suffix != ".safetensors":
        raise UserError(f"model.lora='{path}' is no safetensors, and pickles are not read; {MEND}")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.lora='{path}' cannot be read ({first_line(error)}); get the file again") from error
    odd = [name for name in tensors if any(kind in name for kind in OTHER_KINDS)]
    odd = odd or [name for name in tensors if "lora" not in name]
    if odd or not tensors:
        raise UserError(f"model.lora='{path}' is no LoRA: found {list_names(odd) or 'no tensors'}; {MEND}")
    return tensors


def _fuse(pipeline: StableDiffusionPipeline, path: str, tensors: dict[str, Tensor], scale: float) -> None:
    """Add one LoRA, and leave the model's structure as it was."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    expected = sum(name.endswith(DOWN) for name in tensors)
    try:
        pipeline.load_lora_weights(dict(tensors))
        modules = [module for part in PARTS for module in getattr(pipeline, part).modules()]
        found = sum(isinstance(module, BaseTunerLayer) for module in modules)
        if found == expected and scale:  # by 0 nothing is added, not even to the sign of a zero
            pipeline.fuse_lora(components=list(PARTS), lora_scale=scale)
        pipeline.unload_lora_weights()
    except Exception as error:  # each library stumbles in its own way over a file that somebody else wrote
        raise UserError(f"model.lora='{path}' does not fit this model ({first_line(error)}); {MEND}") from error
    if found != expected:
        raise UserError(
            f"model.lora='{path}' does not fit this model: it changes {expected} layers, of which {found} are in the "
            f"UNet and the text encoder here; {MEND}"
        )
