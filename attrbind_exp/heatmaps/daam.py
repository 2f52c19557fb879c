"""DAAM's reading: cross-attention of all heads, upsampled and averaged, without self-attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Layer, Observation, Request
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.layers import Column, cross_blocks, find_columns, weigh_columns
from attrbind_exp.heatmaps.method import HeatMapMethod, cross_layers, share_of_layers
from attrbind_exp.types import LayerChoice


@dataclass(frozen=True)
class Daam(HeatMapMethod):
    """c = mean over layers and heads of max(bicubic(A_q), 0), mean over the pieces of the target q.

    All cross-attention layers but those of the coarsest resolution are read, unless attention_layers names others, each
    layer counting alike. Source: "What the DAAM" (Tang et al., 2023). Departures: one noising step at the run's
    timestep in place of all steps of a generation; the heat map is resized to the picture bilinearly, as every method's
    is, where DAAM's is bicubic.
    """

    def columns(self, choice: LayerChoice, layers: Sequence[Layer], reading: Reading) -> dict[Column, float]:
        """One column a resolution; its weight is its share of the layers, or the choice's."""
        if choice.ratios is None and choice.blocks is None:
            ratios = sorted(cross_blocks(layers))
            choice = LayerChoice(tuple(ratios[:-1] or ratios), None, choice.weights)
        columns = find_columns(choice, layers)
        return weigh_columns(columns, choice.weights) if choice.weights else share_of_layers(columns, layers)

    def request(self, columns: Sequence[Column], layers: Sequence[Layer]) -> Request:
        """Cross-attention of the columns' layers, heads apart."""
        return Request(cross=cross_layers(columns, layers), by_head=True)

    def pools(self, read: Sequence[int], length: int) -> Tensor:
        """(K, L): every piece by itself, since negative values are cut off before pieces are averaged. Each counts 1 /
        K, so that their sum is the mean."""
        weights = torch.zeros(len(read), length)
        weights[range(len(read)), list(read)] = 1 / len(read)
        return weights

    def raw_maps(self, seen: Observation, columns: Sequence[Column], grid: tuple[int, int]) -> Tensor:
        """The mean over layers and heads of each column's maps, on the latents' grid: (B, C, h, w)."""
        return torch.stack([self._mean(seen, column, grid) for column in columns], 1)

    def _mean(self, seen: Observation, column: Column, grid: tuple[int, int]) -> Tensor:
        found = []
        for layer in cross_layers([column], list(seen.cross)):
            maps = seen.cross[layer].unflatten(-1, score_map.grid_at(column.ratio, grid))  # (B, K, heads, h_r, w_r)
            upsampled = score_map.resize(maps.flatten(0, 2), grid, "bicubic").clamp_min(0)
            found.append(upsampled.unflatten(0, maps.shape[:3]).sum(1).mean(1))  # (B, h, w)
        return torch.stack(found).mean(0)
