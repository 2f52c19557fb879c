"""How well each expression explains its picture beside the others of the run, before the rows of passes are made."""

from collections.abc import Mapping, Sequence

import torch

from attrbind_exp.evaluation.loading import LoadedSample
from attrbind_exp.heatmaps.losses import Relative
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.tasks.settings import RunSettings

Weights = Mapping[int, Relative]  # by noise seed


def weigh(loaded: Sequence[LoadedSample], segmenter: Segmenter, settings: RunSettings) -> list[Weights]:
    """The relative losses of whole images' expressions, by seed; empty where no heat-map method asks for them."""
    if not loaded or not segmenter.compare_texts.timesteps:
        return [{}] * len(loaded)
    pictures = {item.sample.image_id: item.latents for item in loaded}
    ids, latents = list(pictures), torch.stack(list(pictures.values()))
    prompts, images = [item.prompt for item in loaded], [ids.index(item.sample.image_id) for item in loaded]
    found = {
        seed: segmenter.compare_texts(latents, ids, prompts, images, seed, settings.batch_size)
        for seed in settings.seeds
    }
    return [{seed: each[i] for seed, each in found.items()} for i in range(len(loaded))]
