"""A checkpoint in one file, in the layout of Stable Diffusion's first code, as most of the web has them.

Such a file holds tensors alone, under names of its own. The configurations and the tokenizer that it lacks lie in
assets/single_file; diffusers says which kind of model its tensors are and knows their names of today.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from safetensors import SafetensorError
from torch import Tensor

from attrbind_exp.backbones.headers import read_header
from attrbind_exp.backbones.weights import first_line, mend, read_object, refusal
from attrbind_exp.paths import PACKAGE
from attrbind_exp.types import UserError

CONFIGS = PACKAGE / "assets" / "single_file"
KINDS = {"v1": "sd1", "v2": "sd2"}  # as diffusers calls them: our folders
UNET, VAE = "model.diffusion_model.", "first_stage_model."
ALWAYS = f"{UNET}input_blocks.0.0.weight"  # in every Stable Diffusion, and in no LoRA, embedding or autoencoder
OPEN_CLIP = "cond_stage_model.model."


def configs_of(file: Path, path: str) -> Path:
    """The folder with the configurations of the model in `file`, which model.path=`path` means: of 1.x, or of 2.x.

    Only the header is read. Raises UserError for a file that cannot be read or holds something else.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        tensors = read_header(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.path='{path}' cannot be read ({first_line(error)}); {mend(path)}") from error
    if ALWAYS not in tensors:
        lora = any("lora" in name for name in tensors)
        hint = "a LoRA alone, which is given as model.lora=FILE on top of a model" if lora else f"no {ALWAYS} in it"
        raise UserError(refusal(path, hint))
    kind = infer_diffusers_model_type(tensors)
    if kind not in KINDS:
        raise UserError(refusal(path, f"the kind that diffusers calls '{kind}'"))
    return CONFIGS / KINDS[kind]


def tokenizer_of(file: Path, path: str) -> tuple[Path, str | None]:
    """The folder of the tokenizer for the model in `file`, and by what it pads, where that is not the tokenizer's own.

    Both kinds cut words alike; 2.x pads by "!", the first word of the vocabulary.
    """
    return CONFIGS / "tokenizer", "!" if configs_of(file, path).name == KINDS["v2"] else None


def part_of(tensors: Mapping[str, Tensor], part: str, configs: Path) -> dict[str, Tensor]:
    """The tensors of one part of a checkpoint, by the names that diffusers and transformers 4 gave them."""
    from diffusers.loaders import single_file_utils as layout

    config = read_object(configs / part / "config.json")
    if part == "unet":
        return layout.convert_ldm_unet_checkpoint(_beginning(tensors, UNET), config)
    if part == "vae":
        return layout.convert_ldm_vae_checkpoint(_beginning(tensors, VAE), config)
    if any(name.startswith(OPEN_CLIP) for name in tensors):
        return layout.convert_open_clip_checkpoint(
            SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"])), tensors, prefix=OPEN_CLIP
        )
    return layout.convert_ldm_clip_checkpoint(tensors)


def _beginning(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix`: what training left beside them (model_ema.*) is not read."""
    return {name: values for name, values in tensors.items() if name.startswith(prefix)}
