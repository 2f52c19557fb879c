"""Stable Diffusion 1.x and 2.x: text encoder, autoencoder, noise, one UNet pass."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from attrbind_exp.log import verbose

if not verbose():
    transformers.logging.set_verbosity_error()  # before diffusers asks for image processors that nobody needs
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention import FeedForward
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, EncodedText, Observation, Pixels, Request
from attrbind_exp.backbones.capture import find_layers, record
from attrbind_exp.backbones.loading import load_pipeline
from attrbind_exp.backbones.lora import fuse_loras
from attrbind_exp.backbones.reading import DIFFSEGMENTER, Reading, read_reading
from attrbind_exp.backbones.tensors import at_least_float32, to_device
from attrbind_exp.backbones.text_encoder import TEXT_BATCH, encode_texts
from attrbind_exp.backbones.weights import find_model
from attrbind_exp.backbones.window import ClipWindow
from attrbind_exp.cache import digest
from attrbind_exp.devices import pick_device, pick_dtype, set_tf32
from attrbind_exp.language.window import Text
from attrbind_exp.memory import in_parts
from attrbind_exp.types import UserError

transformers.logging.disable_progress_bar()
diffusers_logging.disable_progress_bar()

FILTERS = {name.name.lower(): name for name in Image.Resampling}  # of resizing, by PIL's names
LATENTS = ("mode", "sample")


class StableDiffusion:
    """A Stable Diffusion 1.x or 2.x as a Backbone.

    `size`: (height, width) in pixels that pictures are resized to, None = the model's own square. Latent cells are
    `size` divided by `vae_scale`. `reading`: the timestep and weights that suit it. `resize`: the filter by which
    pictures are resized. `latents`: the "mode" of the autoencoder's posterior, which is its mean, or a "sample", drawn
    by `seed` and the picture's pixels.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        size: tuple[int, int] | None = None,
        reading: Reading = DIFFSEGMENTER,
        resize: str = "bicubic",
        latents: str = "mode",
        seed: int = 0,
    ):
        for key, value, known in (("resize", resize, FILTERS), ("latents", latents, LATENTS)):
            if value not in known:
                raise UserError(f"model.{key}={value!r}; choose from {', '.join(known)}")
        self.reading, self.resize, self.latents, self.seed = reading, FILTERS[resize], latents, seed
        self.tokenizer = pipeline.tokenizer
        self.window = ClipWindow(pipeline.tokenizer)
        self.text_encoder = pipeline.text_encoder.eval().requires_grad_(False)
        self.vae = pipeline.vae.eval().requires_grad_(False)
        self.unet = pipeline.unet.eval().requires_grad_(False)
        if self.unet.device.type == "cuda":  # the UNet is slower so on an H200: docs/performance.md
            self.vae.to(memory_format=torch.channels_last)
        # Noted once: diffusers looks through all modules whenever it is asked, more than a millisecond each time.
        self.device, self.dtype = self.unet.device, self.unet.dtype
        self.text_batch = TEXT_BATCH
        self.layers = find_layers(self.unet)
        # Samplers differ in how they step and scale (Euler's noise explodes), not in the process that the UNet was
        # trained on: DDPM's add_noise is that process for all of them, and for v-prediction as for epsilon.
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.timesteps = self.scheduler.config.num_train_timesteps
        self.vae_scale = pipeline.vae_scale_factor
        side = self.unet.config.sample_size * self.vae_scale
        self.size = size or (side, side)
        # The UNet halves the latents once a block but the last; other sizes would not fit together on the way up.
        step = self.vae_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if any(n % step or n <= 0 for n in self.size):
            raise UserError(f"model.size={list(self.size)} does not divide by {step}; give multiples of {step} pixels")
        height, width = (n // self.vae_scale for n in self.size)
        self.latent_shape = (self.unet.config.in_channels, height, width)

    def compile(self) -> None:
        """Fuse what reads no attention, residual blocks and feed-forwards, into kernels for one batch size. The first
        passes take minutes."""
        torch._dynamo.config.recompile_limit = 64  # one code, many widths
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D | FeedForward):
                module.compile(dynamic=False)

    def image_encoder_digest(self) -> str:
        """A digest of the autoencoder: its weights, its settings and the code here that asks it. The scaling factor is
        one of the settings; names that begin with "_" say only where they came from."""
        settings = sorted((k, v) for k, v in self.vae.config.items() if not k.startswith("_"))
        drawn = [self.latents, *([self.seed] if self.latents == "sample" else [])]
        return digest(weights_digest(self.vae), settings, drawn, Path(__file__).read_bytes())

    @torch.no_grad()
    def encode_text(self, texts: Sequence[Text]) -> list[EncodedText]:
        """The last hidden states (L, D) of every text, each in the full padded window, or what its request says.

        The final layer norm is in them. Stable Diffusion 2.x reads OpenCLIP's penultimate layer by shipping an encoder
        without the last one, so the same code serves both.
        """
        found, self.text_batch = encode_texts(self.text_encoder, self.window, texts, self.text_batch)
        return found

    def pixels(self, image: Image.Image) -> Pixels:
        """What the model sees of an RGB image. Touches no device: safe in a thread."""
        height, width = self.size
        resized = np.array(image.resize((width, height), self.resize))
        return Pixels(torch.from_numpy(resized).permute(2, 0, 1).contiguous())

    @torch.no_grad()
    def encode_pixels(self, pixels: Pixels) -> Tensor:
        """Scaled latents (c, h, w) of one picture: the mode of the autoencoder's posterior, or a sample."""
        (posterior,), _ = in_parts(self._posterior, [pixels], 1, "the number of pictures that are encoded together")
        found = posterior.mean[0]
        if self.latents == "sample":  # the same for a picture whatever the batch, the order or the machine
            drawn = draw_noise(tuple(found.shape), self.seed, digest(pixels.values), -1, 0)
            found = found + posterior.std[0] * to_device(drawn, self.device).to(found.dtype)
        return found * self.vae.config.scaling_factor

    def _posterior(self, pixels: Sequence[Pixels], _: int) -> list[DiagonalGaussianDistribution]:
        """What the autoencoder makes of one picture."""
        scaled = to_device(pixels[0].values, self.device)[None].to(self.dtype) / 127.5 - 1
        return [self.vae.encode(scaled).latent_dist]

    def add_noise(self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int) -> Tensor:
        """Latents (P, c, h, w) at `timestep`. The noise depends on (seed, image id, timestep, draw) and nothing else,
        so that every method sees the same one whatever the batch, the order or the machine."""
        return self._add(latents, _noise_like(latents, image_ids, timestep, draw, seed), timestep)

    @torch.no_grad()
    def denoising_loss(
        self, latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int, embedding: Embedding
    ) -> Tensor:
        """Mean squared error (B,) between the noise of `add_noise` and the predicted one, as MeasuresLoss says. What a
        model predicts instead of noise is turned into it."""
        drawn = _noise_like(latents, image_ids, timestep, draw, seed)
        noisy = self._add(latents, drawn, timestep)
        predicted = at_least_float32(self.denoise(noisy, timestep, embedding))
        share = float(self.scheduler.alphas_cumprod[timestep])  # of the picture's variance in the noisy latents
        if self.scheduler.config.prediction_type == "v_prediction":
            predicted = share**0.5 * predicted + (1 - share) ** 0.5 * noisy
        return (predicted - drawn).square().flatten(1).mean(1)

    def _add(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Latents (P, c, h, w) with their noise at `timestep`."""
        return self.scheduler.add_noise(latents, noise, torch.full((len(latents),), timestep, device=latents.device))

    def observe(
        self,
        noisy: Tensor,
        timestep: int,
        embedding: Embedding,
        request: Request,
        pools: Tensor | None = None,
        same_image: Sequence[int] | None = None,
        reads: Sequence[Tensor] = (),
    ) -> Observation:
        """One conditional UNet pass, as Backbone.observe says."""
        values = None if embedding.values is None else embedding.values.to(self.device, self.dtype)
        texts = [read.to(self.device, self.dtype) for read in reads]
        with record(self.unet, request, len(noisy), pools, values, same_image, texts) as seen:
            noise = self.denoise(noisy, timestep, embedding)
            if request.noise:
                seen.noise = noise
        return seen

    def denoise(self, noisy: Tensor, timestep: int, embedding: Embedding) -> Tensor:
        """The predicted noise (B, c, h, w) of noisy latents (B, c, h, w) under an embedding of keys (B, L, D)."""
        steps = torch.full((len(noisy),), timestep, device=noisy.device)  # a number would be sent, and waited for
        keys = embedding.keys.to(self.device, self.dtype)
        return self.unet(noisy, steps, keys, return_dict=False)[0]


def weights_digest(module: torch.nn.Module) -> str:
    """A digest over all weights of a module: a fine-tune under the same name is another one."""
    return digest(*(part for name, values in module.state_dict().items() for part in (name, values)))


def _noise_like(latents: Tensor, image_ids: Sequence[str], timestep: int, draw: int, seed: int) -> Tensor:
    """The noise (P, c, h, w) of latents, each row's as its image id keys it."""
    noise = torch.stack([draw_noise(tuple(latents.shape[1:]), seed, i, timestep, draw) for i in image_ids])
    return to_device(noise, latents.device).to(latents.dtype)


def draw_noise(shape: tuple[int, ...], seed: int, image_id: str, timestep: int, draw: int) -> Tensor:
    """Standard normal noise of `shape`, float32 on the CPU, keyed by a hash of the other arguments."""
    key = hashlib.sha256(f"{seed}/{image_id}/{timestep}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def load_stable_diffusion(
    path: str,
    device: str = "auto",
    dtype: str = "auto",
    size: tuple[int, int] | None = None,
    resize: str = "bicubic",
    latents: str = "mode",
    seed: int = 0,
    lora: str | Sequence[str] | None = None,
    lora_scale: float | Sequence[float] = 1.0,
    tf32: bool = False,
) -> StableDiffusion:
    """Load a Stable Diffusion 1.x or 2.x from a local folder, a single file, or by its hub name from the local cache.

    `device`: see pick_device. `dtype` "auto": fp16 on CUDA, else fp32. `tf32`: see set_tf32. `resize`, `latents`,
    `seed`: see StableDiffusion. `lora`, `lora_scale`: see `lora.fuse_loras`. Only safetensors are read.
    Raises UserError when there are no weights, saying how to get them, for a model of another kind, and for files that
    are not whole.
    """
    target = pick_device(device)
    chosen = pick_dtype(dtype, target)
    set_tf32(target, tf32)
    place = find_model(path)
    pipeline = load_pipeline(place, path, target, chosen)
    fuse_loras(pipeline, lora, lora_scale)
    return StableDiffusion(pipeline, size, read_reading(str(place)), resize, latents, seed)
