"""The machine that gpu_checks.py looks at, and what several checks use."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding, encode_images
from attrbind_exp.edits import Averaging, NounChunk
from attrbind_exp.evaluation.batch_size import fit_batch_size
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import Prompt, Variant
from benchmarks.measure import wait_for
from benchmarks.models import EXPRESSIONS, build_sd15

SIZE = (480, 640)  # of the picture, (height, width)
PER_IMAGE = 7  # expressions about one image, as in RefCOCO


@dataclass(frozen=True)
class Batch:
    """What Segmenter.complete takes: latents (P, c, h, w) of P images, and n prompts under their embeddings."""

    latents: Tensor
    ids: list[str]
    prompts: list[Prompt]
    embeddings: list[Embedding]
    owner: list[int]  # the image of each prompt


class Machine:
    """The device, and what several checks use. `config_dir`: SD 1.5's configs; `out`: a folder for what is found."""

    def __init__(self, device: str, config_dir: Path, out: Path):
        self.device, self.config_dir, self.out = torch.device(device), config_dir, out

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def segmenter(self) -> Segmenter:
        """Stable Diffusion 1.5's architecture with random weights."""
        return Segmenter(build_sd15(self.config_dir, self.device.type))

    @cached_property
    def picture(self) -> Image.Image:
        """A picture of noise."""
        return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8))

    @cached_property
    def latents(self) -> Tensor:
        """The picture's latents (c, h, w)."""
        return encode_images(self.segmenter.backbone, [self.picture])[0]

    @cached_property
    def rows(self) -> int:
        """How many rows a pass has."""
        return fit_batch_size(self.segmenter, 8) if self.on_cuda else 8

    def batch(self, count: int) -> Batch:
        """So many prompts, no two of them alike, on images of the same latents."""
        prompts = self.segmenter.prepare(EXPRESSIONS)
        variants = [Variant("ours", (NounChunk(), Averaging(round(0.9 - 0.001 * i, 4)))) for i in range(count)]
        chosen = [prompts[i % len(prompts)] for i in range(count)]
        embeddings = [self.segmenter.edit([p], [v])[0].embedding(0) for p, v in zip(chosen, variants, strict=True)]
        images = -(-count // PER_IMAGE)
        ids = [str(i) for i in range(images)]
        return Batch(
            torch.stack([self.latents] * images), ids, chosen, embeddings, [i // PER_IMAGE for i in range(count)]
        )

    def complete(self, batch: Batch) -> Tensor:
        """One pass of all rows of a batch: completed maps (n, C, h, w)."""
        return self.segmenter.complete(
            batch.latents, batch.ids, batch.prompts, batch.embeddings, 0, len(batch.prompts), batch.owner
        )

    def seconds(self, action: Callable[[], object], calls: int = 3) -> float:
        """Seconds a call, the device waited for; one call before them warms up."""
        action()
        wait_for(self.device)
        start = time.perf_counter()
        for _ in range(calls):
            action()
        wait_for(self.device)
        return (time.perf_counter() - start) / calls
