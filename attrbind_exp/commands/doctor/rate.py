"""How many passes a second this machine makes of a run's model, measured by a few."""

import time
from dataclasses import replace

import torch

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.commands.build import build_segmenter
from attrbind_exp.config import Settings
from attrbind_exp.evaluation.batch_size import fit_batch_size
from attrbind_exp.latent_steps.method import passes_of
from attrbind_exp.latent_steps.take import EXAMPLE

TIMED = 3  # times a full batch, behind one that is not counted


def measure_rate(settings: Settings) -> tuple[float, str]:
    """Passes a second, from latents to completed maps, and the device that made them. Nothing is written."""
    segmenter = build_segmenter(replace(settings.segmenter, cache_folder=None))
    backbone, maps = segmenter.backbone, settings.segmenter.maps
    rows = settings.batch_size or fit_batch_size(segmenter, settings.segmenter.model.batch_size)
    latents = torch.zeros(rows, *backbone.latent_shape, device=backbone.device, dtype=backbone.dtype)
    prompts = segmenter.prepare([EXAMPLE if segmenter.latent_steps else "white dog"] * rows)
    encoded = backbone.encode_text([prompts[0].text])[0]
    embeddings = [Embedding(encoded.states, None, encoded.pooled)] * rows
    ids = [str(i) for i in range(rows)]
    for number in range(1 + TIMED):
        if number == 1:
            started = time.perf_counter()
        segmenter.complete(latents, ids, prompts, embeddings).cpu()  # waits for the device
    steps = {step for steps in segmenter.timesteps.values() for step in steps}
    each = passes_of(segmenter.latent_steps)
    return TIMED * rows * each * len(steps) * maps.draws / (time.perf_counter() - started), str(backbone.device)
