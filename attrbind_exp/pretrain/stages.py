"""The stages of pretraining: autoencoder, then UNet and text encoder together; and the export to disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from attrbind_exp.pretrain import architecture
from attrbind_exp.pretrain.captions import training_caption
from attrbind_exp.pretrain.loop import Plan, load_average, train
from attrbind_exp.pretrain.scenes import Scene, draw, object_mask, training_scene
from attrbind_exp.runs.figures import contact_sheet

Log = Callable[[int, float], None]


def pictures(scenes: list[Scene]) -> Tensor:
    """(B, 3, 64, 64) in [-1, 1]."""
    stack = np.stack([draw(scene, architecture.PIXELS) for scene in scenes])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(plan: Plan, scenes: int, device: torch.device, folder: Path, log: Log) -> float:
    """Reconstruction (L1 + L2) with a light pull of the latents towards a unit normal."""
    torch.manual_seed(plan.seed)
    vae = architecture.build_vae().to(device)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step])
        images = pictures([training_scene(int(i)) for i in rng.integers(0, scenes, plan.batch)]).to(device)
        noise = torch.Generator(device).manual_seed(plan.seed * 1_000_003 + step)
        posterior = vae.encode(images).latent_dist
        rebuilt = vae.decode(posterior.sample(noise)).sample.float()
        return F.l1_loss(rebuilt, images) + F.mse_loss(rebuilt, images) + 1e-5 * posterior.kl().mean()

    last = train(vae, loss, plan, folder, log)
    vae.save_pretrained(folder / "vae")
    return last


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: int, folder: Path, device: torch.device) -> Tensor:
    """Latents of all training scenes, (scenes, 4, 16, 16), scaled to unit deviation; kept on disk."""
    file = folder / f"latents_{scenes}.safetensors"
    if not file.exists():
        parts = []
        for start in tqdm(range(0, scenes, 100), desc="latents", disable=None):
            batch = pictures([training_scene(i) for i in range(start, min(start + 100, scenes))])
            parts.append(vae.encode(batch.to(device)).latent_dist.mean.cpu())
        save_file({"latents": torch.cat(parts).contiguous()}, file)
    latents = load_file(file)["latents"]
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(folder / "vae")
    return latents * vae.config.scaling_factor


class Denoiser(nn.Module):
    """Text encoder and UNet as one thing to train."""

    def __init__(self, text_encoder: nn.Module, unet: nn.Module):
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(noisy, t, self.text_encoder(ids).last_hidden_state).sample


def build_denoiser(device: torch.device, seed: int):
    """Tokenizer and untrained denoiser of one seed."""
    torch.manual_seed(seed)
    texts = [training_caption(np.random.default_rng([7, i]), training_scene(i)) for i in range(4000)]
    tokenizer = architecture.build_tokenizer(texts)
    denoiser = Denoiser(architecture.build_text_encoder(tokenizer), architecture.build_unet())
    return tokenizer, denoiser.to(device)


def object_cells(scenes: list[Scene]) -> Tensor:
    """How much of each latent cell and its neighbours is object, (scenes, 1, 16, 16) in [0, 1]."""
    side = architecture.PIXELS // 4
    cover = np.stack([sum(object_mask(o, side) for o in scene.objects) for scene in scenes])
    return F.max_pool2d(torch.from_numpy(cover)[:, None], 3, stride=1, padding=1)


def train_unet(
    plan: Plan, scenes: int, empty: float, object_weight: float, device: torch.device, folder: Path, log: Log
) -> float:
    """Epsilon-prediction with the captions of `training_caption`, a share `empty` of them empty.

    Latent cells count `object_weight` times more where an object lies: captions say nothing about textures, which
    would otherwise make up most of the loss.
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(device).eval()
    latents = encode_scenes(vae, scenes, folder, device)
    drawn = [training_scene(i) for i in tqdm(range(scenes), desc="scenes", disable=None)]
    cells = object_cells(drawn)
    tokenizer, denoiser = build_denoiser(device, plan.seed)
    scheduler = architecture.build_scheduler()
    if device.type == "cpu":
        # The fused kernel's backward is slower than plain matmuls on a CPU at this size.
        denoiser.unet.set_attn_processor(AttnProcessor())
        denoiser.text_encoder.set_attn_implementation("eager")

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, 1, step])
        chosen = rng.integers(0, scenes, plan.batch)
        captions = ["" if rng.random() < empty else training_caption(rng, drawn[i]) for i in chosen]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        clean = latents[chosen]
        noise_rng = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        noise = torch.randn(clean.shape, generator=noise_rng)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (plan.batch,), generator=noise_rng)
        noisy = scheduler.add_noise(clean, noise, t)
        predicted = denoiser(noisy.to(device), t.to(device), ids)
        weight = 1 + object_weight * cells[chosen].to(device)
        return (weight * (predicted.float() - noise.to(device)) ** 2).mean() / weight.mean()

    return train(denoiser, loss, plan, folder, log)


def export(plan_name: str, seed: int, folder: Path, out: Path) -> int:
    """Write the averaged weights in half precision and Stable Diffusion's layout; returns their size in bytes."""
    device = torch.device("cpu")
    tokenizer, denoiser = build_denoiser(device, seed)
    load_average(folder / f"{plan_name}.safetensors", denoiser)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True),
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=architecture.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    # transformers would load the text encoder in its stored precision, diffusers the rest in fp32; let them agree.
    settings = json.loads((out / "text_encoder" / "config.json").read_text())
    (out / "text_encoder" / "config.json").write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")
    return sum(f.stat().st_size for f in out.rglob("*.safetensors"))


PROMPTS = (
    "a red heart", "a blue circle", "a white cross", "a black ring", "a yellow star", "an orange triangle",
    "a purple moon", "a green square", "a red circle and a blue square", "a white star and a black star",
    "a green heart", "a purple cross", "the star on the left", "a yellow ring next to a red ring", "two moons",
    "a circle",
)  # fmt: skip


def draw_samples(model: Path, path: Path, seed: int) -> Path:
    """Generations from 16 prompts, each under its prompt, as one PNG."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, use_safetensors=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]
    prompts = ["a photograph of " + p for p in PROMPTS]
    images = pipeline(prompts, num_inference_steps=30, guidance_scale=4.0, generator=noise).images
    return contact_sheet(dict(zip(PROMPTS, map(np.asarray, images), strict=True)), path, columns=8)
