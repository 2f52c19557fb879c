"""How many passes a second this machine makes of a run's model, measured by a few."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.commands.build import build_segmenter
from attrbind_exp.config import Settings
from attrbind_exp.evaluation.batch_size import fit_batch_size
from attrbind_exp.latent_steps.method import passes_of
from attrbind_exp.latent_steps.take import EXAMPLE
from attrbind_exp.memory import in_parts

TIMED = 3  # times a full batch, behind one that is not counted


def measure_rate(settings: Settings) -> tuple[float, str]:
    """Passes a second, from latents to completed maps, and the device that made them; where memory runs out, in smaller
    batches, as a run makes them. Nothing is written."""
    segmenter = build_segmenter(replace(settings.segmenter, cache_folder=None))
    backbone, maps = segmenter.backbone, settings.segmenter.maps
    rows = settings.batch_size or fit_batch_size(segmenter, settings.segmenter.model.batch_size, settings.run.variants)
    latents = torch.zeros(rows, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)
    prompts = segmenter.prepare([EXAMPLE if segmenter.latent_steps else "white dog"] * rows)
    encoded = backbone.encode_text([prompts[0].text])[0]
    embeddings = [Embedding(encoded.states, None, encoded.pooled)] * rows
    ids = [str(i) for i in range(rows)]

    def make(part: Sequence[int], size: int) -> Sequence[int]:
        count = len(part)
        segmenter.complete(latents[:count], ids[:count], prompts[:count], embeddings[:count], None, size).cpu()  # waits
        return part

    _, rows = in_parts(make, range(rows), rows, "batch_size")
    started = time.perf_counter()
    for _ in range(TIMED):
        make(range(rows), rows)
    steps = {step for steps in segmenter.timesteps.values() for step in steps}
    each = passes_of(segmenter.latent_steps)
    return TIMED * rows * each * len(steps) * maps.draws / (time.perf_counter() - started), str(backbone.device)
