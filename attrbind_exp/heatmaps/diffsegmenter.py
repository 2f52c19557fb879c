"""DiffSegmenter's reading: cross-attention by resolution, completed by self-attention. The paper's baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, find_columns, weigh_columns
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers, finest_self_attention
from attrbind_exp.types import LayerChoice


@dataclass(frozen=True)
class DiffSegmenter(HeatMapMethod):
    """Protocol 3.4 and 3.5: c = sum over resolutions of w * minmax(mean over heads and layers), then S @ c.

    S is the mean over heads and layers of the finest self-attention; that S @ sum(w c) = sum(w S @ c) makes each
    resolution a column of its own. `weights`: by ratio, None = the model's own reading. Source: DiffSegmenter
    (Wang et al., 2023) and its published script.
    """

    weights: Mapping[int, float] | None = None

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution, with the choice's weights, else this method's, else the model's own."""
        return weigh_columns(find_columns(choice, layers), choice.weights or self.weights or reading.weights)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, queries and keys of the finest self-attention."""
        return Request(cross=cross_layers(columns, layers), queries_keys=finest_self_attention(layers))

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over heads and layers of each column, on the grid of the self-attention: (B, C, h', w')."""
        at = score_map.grid_at(min((x.layer.ratio for x in seen.self_attention), default=1), grid)
        means = []
        for column in columns:
            layers = [seen.cross[x][:, 0].mean(1) for x in cross_layers([column], list(seen.cross))]  # (B, n) each
            means.append(score_map.mean_map(layers, score_map.grid_at(column.ratio, grid), at))
        return torch.stack(means, 1)

    def complete(self, maps: Tensor, seen: Observation) -> Tensor:
        """S @ minmax(c) of every column c."""
        return score_map.complete(score_map.min_max(maps), seen.self_attention)
