"""The stages of pretraining after CLIP: the autoencoder, the UNet, and the export to disk."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F

from attrbind_exp.pretrain import architecture
from attrbind_exp.pretrain.captions import training_caption
from attrbind_exp.pretrain.clip import load_clip, tokenize
from attrbind_exp.pretrain.loop import Batch, Log, Plan, load_average, train
from attrbind_exp.pretrain.pictures import as_tensor
from attrbind_exp.pretrain.scenes import Scene, object_mask
from attrbind_exp.reporting.figures import contact_sheet


def train_vae(plan: Plan, pictures: Tensor, device: torch.device, folder: Path, log: Log) -> float:
    """Train the autoencoder and save it in `folder`/vae. Returns the mean loss at the end.

    The loss is that of reconstruction (L1 + L2), and a little of the latents' divergence from a unit normal.
    `pictures`: (n, 3, 64, 64) uint8.
    """
    torch.manual_seed(plan.seed)
    vae = architecture.build_vae().to(device)

    def sample(step: int) -> Batch:
        rng = np.random.default_rng([plan.seed, step])
        images = as_tensor(pictures[rng.integers(0, len(pictures), plan.batch)])
        side = architecture.PIXELS // 4
        noise = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        return images.to(device), torch.randn(plan.batch, 4, side, side, generator=noise).to(device)

    def loss(images: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(images).latent_dist
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return F.l1_loss(rebuilt, images) + F.mse_loss(rebuilt, images) + 1e-5 * posterior.kl().mean()

    last = train(vae, sample, loss, plan, folder, log)
    vae.save_pretrained(folder / "vae")
    return last


def object_cells(scenes: Sequence[Scene]) -> Tensor:
    """How much of each latent cell objects cover, or of its most covered neighbour, (scenes, 1, 16, 16) in [0, 1]."""
    side = architecture.PIXELS // 4
    cover = np.stack([sum(object_mask(o, side) for o in scene.objects) for scene in scenes])
    return F.max_pool2d(torch.from_numpy(cover)[:, None], 3, stride=1, padding=1)


@dataclass(frozen=True)
class UnetTraining:
    """How the UNet's training batches are made.

    `empty`: the share of empty captions; `words_only`: the share of captions whose end token and padding are hidden
    from cross-attention; `object_weight`: what a latent cell full of an object weighs in the loss beyond the 1 of every
    cell; `focus_share` of the timesteps are drawn from `focus` (first, last), the others from all.
    """

    empty: float
    words_only: float
    object_weight: float
    focus: tuple[int, int]
    focus_share: float

    def draw_timesteps(self, rng: np.random.Generator, count: int, total: int) -> np.ndarray:
        """Random timesteps (count,) in 0 .. total - 1."""
        low, high = self.focus
        focused = rng.random(count) < self.focus_share
        return np.where(focused, rng.integers(low, high + 1, count), rng.integers(0, total, count))

    def visible_tokens(self, rng: np.random.Generator, ids: Tensor, end: int) -> Tensor:
        """Which of the token ids (B, L) cross-attention may look at, (B, L) bool. `end` is the id of end and padding.

        End token and padding fill most of the window and carry what the words before them say. Were they always
        visible, the UNet would read them alone and not the words (docs/negative-results.md).
        """
        hidden = torch.from_numpy(rng.random((len(ids), 1)) < self.words_only)
        return ~(hidden & (ids == end))


def train_unet(
    plan: Plan,
    batches: UnetTraining,
    scenes: Sequence[Scene],
    latents: Tensor,
    device: torch.device,
    folder: Path,
    log: Log,
) -> float:
    """Train the UNet to predict the noise, given captions in the embedding of the frozen CLIP. Returns the mean loss at
    the end.

    Cells with objects weigh more. Captions say nothing about the ground's texture, which would otherwise make up most
    of the loss. `latents`: (scenes, 4, 16, 16).
    """
    cells = object_cells(scenes)
    tokenizer, clip = load_clip(plan.seed, folder)
    text_encoder, unet = clip.text_encoder.to(device), build_unet(plan.seed).to(device)
    scheduler = architecture.build_scheduler()
    if device.type == "cpu":
        # On a CPU, at this size, the fused kernel's gradient is slower than that of plain matrix products.
        unet.set_attn_processor(AttnProcessor())

    @torch.no_grad()
    def sample(step: int) -> Batch:
        rng = np.random.default_rng([plan.seed, 1, step])
        chosen = rng.integers(0, len(scenes), plan.batch)
        captions = ["" if rng.random() < batches.empty else training_caption(rng, scenes[i]) for i in chosen]
        ids = tokenize(tokenizer, captions)
        words = text_encoder(ids.to(device)).last_hidden_state
        visible = batches.visible_tokens(rng, ids, tokenizer.eos_token_id)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(plan.seed * 1_000_003 + step))
        t = torch.from_numpy(batches.draw_timesteps(rng, plan.batch, scheduler.config.num_train_timesteps))
        noisy = scheduler.add_noise(clean, noise, t)
        weight = 1 + batches.object_weight * cells[chosen]
        batch = noisy, t, words, visible, noise, weight / weight.mean()
        return [tensor.to(device) for tensor in batch]

    def loss(noisy: Tensor, t: Tensor, words: Tensor, visible: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        guess = unet(noisy, t, words, encoder_attention_mask=visible).sample
        return (weight * (guess.float() - noise) ** 2).mean()

    return train(unet, sample, loss, plan, folder, log)


def build_unet(seed: int) -> UNet2DConditionModel:
    """The untrained UNet of one seed."""
    torch.manual_seed(seed)
    return architecture.build_unet()


def export(seed: int, folder: Path, out: Path) -> int:
    """Write the trained model to `out`, in half precision and Stable Diffusion's layout. Returns its size in bytes."""
    tokenizer, clip = load_clip(seed, folder)
    unet = build_unet(seed)
    load_average(folder / "unet.safetensors", unet)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True),
        text_encoder=clip.text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=architecture.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    # Loaded again, all parts shall be fp32: diffusers does so by itself, transformers takes the precision of this file.
    _amend(out / "text_encoder" / "config.json", {"dtype": "float32"})
    _amend(out / "vae" / "config.json", {"_name_or_path": "vae"})  # not the folder where it was trained
    return sum(f.stat().st_size for f in out.rglob("*.safetensors"))


def _amend(file: Path, changes: dict[str, str]) -> None:
    """Change some settings in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2) + "\n")


PROMPTS = (
    "a red heart",
    "a blue circle",
    "a white cross",
    "a black ring",
    "a yellow star",
    "an orange triangle",
    "a purple moon",
    "a green square",
    "a red circle and a blue square",
    "a white star and a black star",
    "a green heart",
    "a purple cross",
    "the star on the left",
    "a yellow ring next to a red ring",
    "two moons",
    "a circle",
)


def draw_samples(model: Path, path: Path, seed: int) -> Path:
    """Write pictures that the model generates from PROMPTS as one PNG, each with its prompt. Returns the PNG's path."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, use_safetensors=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]
    prompts = ["a photograph of " + p for p in PROMPTS]
    images = pipeline(prompts, num_inference_steps=30, guidance_scale=4.0, generator=noise).images
    return contact_sheet(dict(zip(PROMPTS, map(np.asarray, images), strict=True)), path, columns=8)
