"""A frozen Stable Diffusion: loading, text encoder, autoencoder, noise, one UNet pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()  # before diffusers asks for image processors that nobody needs
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from attrbind_exp.backbones.weights import find_model, mend
from attrbind_exp.cache import Cache, digest
from attrbind_exp.language.tokens import tokenize
from attrbind_exp.types import UserError

transformers.logging.disable_progress_bar()
diffusers_logging.disable_progress_bar()

TEXT_BATCH = 8  # texts encoded at once
VAE_OVERFLOW = "the autoencoder overflows in half precision on this picture; try model.dtype=bf16 or fp32"


@dataclass(frozen=True)
class Pixels:
    """An image at the model's size: `values` (3, H, W) uint8; with a cache the `key` of its latents (C, h, w), and
    these where they are known."""

    values: Tensor
    key: str = ""
    latents: Tensor | None = None


class DiffusionModel:
    """Any Stable Diffusion 1.x or 2.x, ready to be asked for attention.

    `size`: (height, width) in pixels that images are resized to; None = the model's own square.
    Latent cells are `size` divided by `vae_scale`. `cache`: where latents and text embeddings are kept, None = nowhere.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, size: tuple[int, int] | None = None, cache: Cache | None = None
    ):
        self.cache = cache
        self.tokenizer = pipeline.tokenizer
        self.text_encoder = pipeline.text_encoder.eval().requires_grad_(False)
        self.vae = pipeline.vae.eval().requires_grad_(False)
        self.unet = pipeline.unet.eval().requires_grad_(False)
        # Samplers differ in how they step and scale (Euler's noise explodes), not in the process that the UNet was
        # trained on: DDPM's add_noise is that process for all of them, and for v-prediction as for epsilon.
        if self.unet.device.type == "cuda":  # tensor cores convolve channels last; a CPU's kernels do not gain by it
            self.unet.to(memory_format=torch.channels_last)
            self.vae.to(memory_format=torch.channels_last)
        # Noted once: diffusers looks through all modules whenever it is asked, more than a millisecond each time.
        self.device, self.dtype = self.unet.device, self.unet.dtype
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.vae_scale = pipeline.vae_scale_factor
        side = self.unet.config.sample_size * self.vae_scale
        self.size = size or (side, side)
        # The UNet halves the latents once a block but the last; other sizes would not fit together on the way up.
        step = self.vae_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if any(n % step or n <= 0 for n in self.size):
            raise UserError(f"model.size={list(self.size)} does not divide by {step}; give multiples of {step} pixels")

    def compile(self) -> None:
        """Fuse what reads no attention, residual blocks and feed-forwards, into kernels for one batch size. The first
        passes take minutes."""
        torch._dynamo.config.recompile_limit = 64  # one code, many widths
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D | FeedForward):
                module.compile(dynamic=False)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Last hidden states of prompts, (B, L, D), each in the full padded window.

        The final layer norm is in them. Stable Diffusion 2.x reads OpenCLIP's penultimate layer by shipping an encoder
        without the last one, so the same line serves both. Always TEXT_BATCH texts at once: a text's embedding does not
        depend on which others come with it.
        """
        ids = torch.stack([t.ids for t in tokenize(self.tokenizer, texts)])
        if self.cache is None:
            return self._encode_tokens(ids)
        keys = [digest(self._text_identity, self.dtype, self.device.type, row) for row in ids]
        kept = [self.cache.get_tensor("texts", key) for key in keys]
        missing = [i for i, states in enumerate(kept) if states is None]
        made = dict(zip(missing, self._encode_tokens(ids[missing]) if missing else [], strict=True))
        for i, states in made.items():
            self.cache.put_tensor("texts", keys[i], to_host(states))
        return torch.stack([made[i] if x is None else to_device(x, self.device) for i, x in enumerate(kept)])

    def _encode_tokens(self, ids: Tensor) -> Tensor:
        parts = to_device(ids, self.device).split(TEXT_BATCH)
        states = [self.text_encoder(fill(part, TEXT_BATCH)).last_hidden_state for part in parts]
        return torch.cat(states)[: len(ids)]

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents (B, C, h, w) of RGB images of any size: the mean of the autoencoder's posterior.

        In half precision a picture's row may hold what is not finite: ask `overflowed`.
        """
        return torch.stack([self.encode_pixels(self.pixels(image)) for image in images])

    def pixels(self, image: Image.Image) -> Pixels:
        """What the model sees of an RGB image. Touches no device: safe in a thread."""
        height, width = self.size
        resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        values = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        if self.cache is None:
            return Pixels(values)
        key = digest(self._vae_identity, self.dtype, self.device.type, values)
        return Pixels(values, key, self.cache.get_tensor("latents", key))

    @torch.no_grad()
    def encode_pixels(self, pixels: Pixels) -> Tensor:
        """Scaled latents (C, h, w) of what `pixels` made of one image; kept ones are not made again."""
        if pixels.latents is not None:
            return to_device(pixels.latents, self.device)
        scaled = to_device(pixels.values, self.device)[None].to(self.dtype) / 127.5 - 1
        latents = self.vae.encode(scaled).latent_dist.mean[0] * self.vae.config.scaling_factor
        if self.cache is not None:
            self.cache.put_tensor("latents", pixels.key, to_host(latents))
        return latents

    @cached_property
    def _vae_identity(self) -> str:
        return weights_digest(self.vae)

    @cached_property
    def _text_identity(self) -> str:
        return weights_digest(self.text_encoder)

    def add_noise(self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int) -> Tensor:
        """Latents (B, C, h, w) at `timestep`. The noise depends on (seed, image id, timestep, draw) and nothing else,
        so that every method sees the same one whatever the batch, the order or the machine."""
        noise = torch.stack([draw_noise(tuple(latents.shape[1:]), seed, i, timestep, draw) for i in image_ids])
        t = torch.full((len(latents),), timestep, device=latents.device)
        return self.scheduler.add_noise(latents, to_device(noise, latents.device).to(latents.dtype), t)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        """One conditional UNet pass: (B, C, h, w) and (B, L, D) to the predicted noise (B, C, h, w)."""
        steps = torch.full((len(noisy),), timestep, device=noisy.device)  # a number would be sent, and waited for
        return self.unet(noisy, steps, embeddings, return_dict=False)[0]


def fill(rows: Tensor, size: int) -> Tensor:
    """`rows` (B, ...) with the last one repeated, `size` rows in all.

    Kernels add in another order for another number of rows, but a row is the same whatever the others hold. So figures
    that must not depend on what shares a batch come from batches of one size.
    """
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])]) if len(rows) < size else rows


def weights_digest(module: torch.nn.Module) -> str:
    """A digest over all weights of a module: a fine-tune under the same name is another one."""
    return digest(*(part for name, values in module.state_dict().items() for part in (name, values)))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, without waiting for what is queued there."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def to_host(values: Tensor) -> Callable[[], Tensor]:
    """Queue a copy to the host; to call the result is to wait for it, and for nothing that is queued later."""
    copy = values.to("cpu", non_blocking=True)  # torch pins it
    if values.device.type != "cuda":
        return lambda: copy
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        event.synchronize()
        return copy

    return wait


def overflowed(latents: Tensor) -> list[bool]:
    """Which of B rows, latents (B, C, h, w) or maps (B, h, w), hold a value that is not finite."""
    return (~latents.isfinite().flatten(1).all(1)).tolist()


def draw_noise(shape: tuple[int, ...], seed: int, image_id: str, timestep: int, draw: int) -> Tensor:
    """Standard normal noise of `shape`, float32 on the CPU, keyed by a hash of the other arguments."""
    key = hashlib.sha256(f"{seed}/{image_id}/{timestep}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def load_model(
    path: str,
    device: str = "auto",
    dtype: str = "auto",
    size: tuple[int, int] | None = None,
    cache: Cache | None = None,
) -> DiffusionModel:
    """Load a Stable Diffusion 1.x or 2.x from a local folder, or by its hub name from the local cache.

    device "auto": CUDA where there is one. dtype "auto": fp16 on CUDA, fp32 on a CPU. Only safetensors are read.
    Raises UserError when there are no weights, saying how to get them, and for a model of another kind.
    """
    target = pick_device(device)
    precision = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    chosen = precision[dtype] if dtype != "auto" else torch.float16 if target.type == "cuda" else torch.float32
    folder = find_model(path)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            str(folder),
            dtype=chosen,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the weights at model.path='{path}' cannot be read ({_first_line(error)}); {mend(path)}"
        ) from error
    pipeline.to(target)
    return DiffusionModel(pipeline, size, cache)


def pick_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU. Raises UserError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device '{device}' here ({_first_line(error)}); choose auto, cpu, cuda, cuda:N") from error
    return torch.device(device)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160].rstrip(".")
