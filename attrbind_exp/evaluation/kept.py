"""Kept maps of a run -> heat maps under other layers, weights or thresholds, without a model."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attrbind_exp.backbones.backbone import Layer
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.data.images import read_image
from attrbind_exp.edits import Variant
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.heatmaps.plan import MadeBy, Plan
from attrbind_exp.heatmaps.refinement import Refinement, refine_finite
from attrbind_exp.runs.maps import KeptMaps, read_maps
from attrbind_exp.types import MapSettings, Sample, SampleError, UserError


class KeptHeat:
    """Heat maps of one image from its kept maps, by sample, variant and number of the noise seed. The maps are read
    when the first heat map is asked for: an image in which no class was looked for has none."""

    def __init__(
        self,
        source: Path,
        image_id: str,
        methods: Mapping[str, HeatMapMethod],
        settings: MapSettings,
        reading: Reading,
        refinement: Refinement | None = None,
    ):
        self.source, self.image_id = source, image_id
        self._picture: Image.Image | None = None
        self.methods, self.settings, self.reading, self.refinement = methods, settings, reading, refinement

    @cached_property
    def kept(self) -> KeptMaps:
        """The completed maps of the image."""
        return read_maps(self.source, self.image_id)

    @cached_property
    def plan(self) -> Plan:
        """Which of the kept maps each reading sums."""
        layers = [Layer(*parts) for parts in self.kept.layers]
        return Plan(self.methods, self.settings, layers, self.reading)

    def __call__(self, sample: Sample, variant: Variant, seed: int) -> np.ndarray:
        """(H, W) float32 in [0, 1]."""
        completed = torch.from_numpy(self.kept.find(sample.sample_id, variant, seed))
        weights = find_weights(self.plan.weights(variant.heatmap, variant.layers), self.kept.columns)
        sigmoid = self.methods[variant.heatmap or next(iter(self.methods))].sigmoid
        heat = score_map.heat_map(score_map.combine(completed[None], weights), sample.size, [sigmoid])[0].numpy()
        return heat if self.refinement is None else self._refine(self.refinement, heat, sample)

    def _refine(self, refinement: Refinement, heat: np.ndarray, sample: Sample) -> np.ndarray:
        """The refined heat map. What it needs was there when the run was made: its lack is no sample's fault."""
        try:
            return refine_finite(refinement, heat, self.picture(sample), sample)
        except SampleError as error:
            raise UserError(
                f"'{sample.sample_id}' cannot be refined as the run was ({error}); put that back, or run again"
            ) from error

    def picture(self, sample: Sample) -> Image.Image:
        """The picture that all samples of the image share."""
        if self._picture is None:
            self._picture = read_image(sample.image_path, sample.size)
        return self._picture


def find_weights(wanted: Mapping[MadeBy, float], kept: Sequence[MadeBy]) -> torch.Tensor:
    """Weights (1, C) of the kept columns. Raises UserError where one that is wanted was not kept."""
    if missing := [column for (method, column), weight in wanted.items() if weight and (method, column) not in kept]:
        raise UserError(
            f"the run kept no map of ratio {missing[0].ratio} from {'+'.join(missing[0].blocks)} alone; run it with "
            "keep_maps=true attention_layers=grid"
        )
    return torch.tensor([[wanted.get(made, 0.0) for made in kept]])
