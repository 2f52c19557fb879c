"""The models and expressions that benchmarks use."""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from attrbind_exp.backbones.reading import DIFFSEGMENTER
from attrbind_exp.backbones.stable_diffusion import StableDiffusion, load_stable_diffusion
from attrbind_exp.config import PACKAGE
from attrbind_exp.devices import pick_device, set_tf32
from tests.oracle import sharpen

BUNDLED = str(PACKAGE / "assets" / "bundled")
(TIMESTEP,) = DIFFSEGMENTER.timesteps
WEIGHTS = DIFFSEGMENTER.weights
EXPRESSIONS = (
    "white dog playing with two black dogs",
    "the white star on the left",
    "a red circle next to a blue square",
)
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build_model(name: str, config_dir: str | None, device: str, dtype: str) -> StableDiffusion:
    """The bundled model ("bundled"), or Stable Diffusion 1.5's exact architecture with random weights ("sd15").

    `config_dir`: a folder with SD 1.5's configs and tokenizer, for "sd15".
    """
    if name == "bundled":
        return load_stable_diffusion(BUNDLED, device, dtype)
    if config_dir is None:
        sys.exit(
            "error: --model sd15 needs --config-dir DIR, a folder with SD 1.5's unet/, vae/, text_encoder/ configs"
        )
    target = pick_device(device)
    set_tf32(target, False)
    return StableDiffusion(random_pipeline(Path(config_dir), target).to(PRECISIONS[dtype]))


def random_pipeline(
    folder: Path, device: torch.device, channels: tuple[int, ...] | None = None
) -> StableDiffusionPipeline:
    """Stable Diffusion with random weights on a device, from the configs in a folder.

    `channels`: of the UNet's and the autoencoder's blocks, where a smaller model is wanted.
    """
    smaller = {} if channels is None else {"block_out_channels": channels, "norm_num_groups": 8}
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae") | smaller)
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet") | smaller)
    sharpen(unet)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline.to(device)


def build_sd15(config_dir: Path, device: str) -> StableDiffusion:
    """What the GPU checks run on: on CUDA Stable Diffusion 1.5's architecture in fp16, with random weights.

    On a CPU, for a dry run, it is the same architecture with few channels, in fp32, on pictures of 128 x 128 pixels.
    """
    target = pick_device(device)
    if target.type == "cuda":
        return StableDiffusion(random_pipeline(config_dir, target).to(torch.float16))
    return StableDiffusion(random_pipeline(config_dir, target, channels=(32, 32, 64, 64)), (128, 128))
