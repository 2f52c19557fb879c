"""Kept maps of a run -> heat maps under other layers, weights or thresholds, without a model."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import find_columns
from attrbind_exp.runs.maps import KeptMaps, read_maps
from attrbind_exp.types import MapSettings, Sample, UserError, Variant


class KeptHeat:
    """Heat maps of one image from its kept maps, by sample, variant and number of the noise seed. The maps are read
    when the first heat map is asked for: an image in which no class was looked for has none."""

    def __init__(self, source: Path, image_id: str, settings: MapSettings):
        self.source, self.image_id, self.settings = source, image_id, settings

    @cached_property
    def kept(self) -> KeptMaps:
        """The completed maps of the image."""
        return read_maps(self.source, self.image_id)

    def __call__(self, sample: Sample, variant: Variant, seed: int) -> np.ndarray:
        """(H, W) float32 in [0, 1]."""
        completed = torch.from_numpy(self.kept.find(sample.sample_id, variant, seed))
        score = score_map.combine(completed[None], _weights(self.settings, variant.layers, self.kept))
        return score_map.heat_map(score, sample.size)[0].numpy()


def _weights(settings: MapSettings, name: str | None, kept: KeptMaps) -> torch.Tensor:
    """Weights (1, C) of the kept columns for a choice of layers. Raises UserError where a column was not kept."""
    choice = settings.choice if name is None else settings.grid[name]
    available: dict[int, list[str]] = {}
    for column in kept.columns:
        available[column.ratio] = list(dict.fromkeys([*available.get(column.ratio, []), *column.blocks]))
    wanted = {column: weight for column, weight in find_columns(choice, available).items() if weight}
    if missing := [column for column in wanted if column not in kept.columns]:
        raise UserError(
            f"the run kept no map of ratio {missing[0].ratio} from {'+'.join(missing[0].blocks)} alone; run it with "
            "keep_maps=true attention_layers=grid"
        )
    return torch.tensor([[wanted.get(column, 0.0) for column in kept.columns]])
