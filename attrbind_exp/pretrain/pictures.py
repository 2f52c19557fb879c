"""Training scenes as pictures and latents. Both are made once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from attrbind_exp.pretrain import architecture
from attrbind_exp.pretrain.scenes import Scene, draw
from attrbind_exp.work import Work, each


def draw_pictures(scenes: Sequence[Scene], name: str = "pictures") -> Tensor:
    """The scenes as pictures, (scenes, 3, 64, 64) uint8. `name` is what is shown of it."""
    drawn = [draw(scene, architecture.PIXELS) for scene in each(scenes, name, "pictures")]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def as_tensor(pictures: Tensor) -> Tensor:
    """Pictures (.., 3, 64, 64) uint8 as float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def kept_pictures(scenes: Sequence[Scene], folder: Path) -> Tensor:
    """The training scenes as pictures, (scenes, 3, 64, 64) uint8. They are drawn unless `folder` has them already."""
    file = folder / f"pictures_{len(scenes)}.safetensors"
    if not file.exists():
        save_file({"pictures": draw_pictures(scenes)}, file)
    return load_file(file)["pictures"]


@torch.no_grad()
def kept_latents(vae: AutoencoderKL, pictures: Tensor, folder: Path) -> Tensor:
    """The pictures' latents, (scenes, 4, 16, 16), scaled to a standard deviation of 1.

    They are encoded unless `folder` has them already. The scale becomes the autoencoder's own, in `folder`/vae.
    """
    file = folder / f"latents_{len(pictures)}.safetensors"
    if not file.exists():
        found = []
        with Work("latents", len(pictures), "pictures") as work:
            for part in pictures.split(100):
                found.append(vae.encode(as_tensor(part).to(vae.device)).latent_dist.mean.cpu())
                work.advance(len(part))
        save_file({"latents": torch.cat(found).contiguous()}, file)
    latents = load_file(file)["latents"]
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(folder / "vae")
    return latents * vae.config.scaling_factor
